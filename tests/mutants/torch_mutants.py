"""Faults of the CPU's kernels, and of the declarations and public functions of the operators."""

from mutant import Mutant

GATE = "tests/test_grouped_gate.py -k '(oracle or every_kind) and torch-'"
GATE_OPTIONS = "tests/test_grouped_gate.py -k '(experts_off or vote or off_fill) and torch'"
GEMM = "tests/test_grouped_gemm.py -k 'oracle[torch and float32'"
GEMM_REJECTS = "tests/test_grouped_gemm.py -k 'rejects'"
MLP = "tests/test_grouped_mlp.py -k 'matches_the_oracle[torch or any_ids[torch'"
LOSS = "tests/test_load_balance_loss.py -k '(oracle or any_shape) and torch'"
UNPERMUTE = "tests/test_unpermute.py -k '(oracle or any_shape or many) and torch'"

MUTANTS = [
    # --- gate ---
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "return bits.masked_fill_(keys.isnan(), limits.min + 1)",
        "return bits.masked_fill_(keys.isnan(), limits.min)",
        "With a bias a NaN ranks with the experts that are chosen already.",
        "tests/test_grouped_gate.py -k 'nan and torch'",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "return scores.nan_to_num(-1.0)",
        "return scores.nan_to_num(0.0)",
        "A NaN ties with the score of -inf.",
        "tests/test_grouped_gate.py -k 'nan and torch'",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "best.append(order.max(-1).indices)",
        "best.append(order.shape[-1] - 1 - order.flip(-1).max(-1).indices)",
        "The last of equal experts wins.",
        "tests/test_grouped_gate.py -k 'ties and torch'",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "d_router_scale = torch.zeros(E, dtype=torch.float64, device=logits.device)",
        "d_router_scale = torch.zeros(E, dtype=torch.float32, device=logits.device).double()\n"
        "        d_base = d_base.float()",
        "The gradient of router_scale is summed from float32 products in float64 runs.",
        "tests/test_grouped_gate.py -k 'gradcheck and torch'",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "d_router_scale = torch.zeros(E, dtype=torch.float64, device=logits.device)\n"
        "        d_router_scale.index_add_(0, ids.flatten(), (d_base * base).flatten().double())",
        "d_router_scale = torch.zeros(E, dtype=d_base.dtype, device=logits.device)\n"
        "        d_router_scale.index_add_(0, ids.flatten(), (d_base * base).flatten())",
        "The gradient of router_scale is a float32 sum over all tokens.",
        "tests/test_grouped_gate.py -k many_rows_sum",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "d_base = (d_base - (d_base * base).sum(-1, keepdim=True)) / total",
        "d_base = d_base - (d_base * base).sum(-1, keepdim=True)",
        "The renormalised gradient is not divided by the sum.",
        GATE,
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gate.py",
        "if scaling != 1.0:",
        "if scaling > 1.0:",
        "A scaling below one is ignored.",
        GATE,
    ),
    Mutant(
        "moge_ops/ops/grouped_gate.py",
        "order = order.masked_fill(~expert_mask.view_as(order), -P)",
        "order = order.masked_fill(~expert_mask.view_as(order), 0)",
        "An expert that is off may stay before one that is on but has no vote.",
        GATE_OPTIONS,
    ),
    Mutant(
        "moge_ops/ops/grouped_gate.py",
        "order = votes.long() * P - places",
        "order = votes.long() * P + places",
        "Ties of votes go to the highest id.",
        GATE_OPTIONS,
    ),
    Mutant(
        "moge_ops/ops/grouped_gate.py",
        "votes = (hits & row_mask.view(-1, 1, 1)).sum(0)",
        "votes = hits.sum(0)",
        "Padding votes.",
        GATE_OPTIONS,
    ),
    Mutant(
        "moge_ops/ops/grouped_gate.py",
        "return bias.detach().masked_fill(~expert_mask, -math.inf)",
        "return bias.detach().masked_fill(~expert_mask, 0.0)",
        "An expert that is off can still be chosen.",
        GATE_OPTIONS,
    ),
    Mutant(
        "moge_ops/ops/grouped_gate.py",
        "if not isinstance(scaling, (int, float)) or isinstance(scaling, bool):",
        "if not isinstance(scaling, (int, float)):",
        "A bool is taken for a scaling.",
        "tests/test_grouped_gate.py -k rejects",
    ),
    Mutant(
        "moge_ops/ops/grouped_gate.py",
        "elif row_mask is not None:",
        "elif row_mask is not None and num_groups < 1:",
        "A row_mask without a vote is ignored in silence.",
        "tests/test_grouped_gate.py -k rejects",
    ),
    # --- grouped_gemm ---
    Mutant(
        "moge_ops/torch_kernels/grouped_gemm.py",
        "if starts[0] != 0 or starts[-1] > N or starts != sorted(starts):",
        "if starts[0] != 0 or starts[-1] > N:",
        "Offsets that fall are accepted.",
        "tests/test_grouped_gemm.py -k cpu_rejects",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gemm.py",
        "if starts[0] != 0 or starts[-1] > N or starts != sorted(starts):",
        "if starts[0] != 0 or starts != sorted(starts):",
        "Offsets past the rows are accepted.",
        "tests/test_grouped_gemm.py -k cpu_rejects",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gemm.py",
        "torch.unflatten(w, 0, (parts, -1)).mT)",
        "torch.unflatten(w, 0, (-1, parts)).transpose(0, 1).mT)",
        "With several threads the parts of the columns are interleaved.",
        "tests/test_grouped_gemm.py -k threads",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gemm.py",
        "out[found[-1][2] if found else 0 :].zero_()",
        "out[found[-1][2] + 1 if found else 0 :].zero_()",
        "The first row of no expert stays uninitialised.",
        GEMM,
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_gemm.py",
        "if after - before > 1:",
        "if after - before > 2:",
        "The gradient of a single expert without rows stays uninitialised.",
        GEMM,
    ),
    Mutant(
        "moge_ops/ops/grouped_gemm.py",
        '"rows": None if weight is None else grouped_gemm_dx(d_out, weight, offsets),',
        '"rows": None if weight is None else grouped_gemm_dx(d_out, weight, offsets).neg(),',
        "dX has the wrong sign on every backend.",
        GEMM,
    ),
    Mutant(
        "moge_ops/ops/grouped_gemm.py",
        '("weight", weight, "[E, O, I]", _checks.SAME),',
        '("weight", weight, "[E, O, I]", _checks.FLOATS),',
        "A weight of another dtype than the rows is accepted.",
        GEMM_REJECTS,
    ),
    # --- expert layer ---
    Mutant(
        "moge_ops/torch_kernels/grouped_mlp.py",
        "places = shift.repeat_interleave(torch.tensor(counts)).add_(row)",
        "places = shift.repeat_interleave(torch.tensor(counts)).sub_(-row).clamp_(0, n - 1)",
        "Rows of a padded batch are put to the wrong places.",
        MLP,
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_mlp.py",
        "place_of = [e - ids[0] for e in ids]",
        "place_of = list(range(len(ids)))",
        "In a batch with an expert without rows the others get its weight.",
        MLP,
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_mlp.py",
        "lying = w.stride(-1) != 1",
        "lying = False",
        "The copy of some experts' weights runs across the memory, which costs time alone.",
        "",
        "index_select gives the same values whichever way the matrices lie: only speed differs.",
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_mlp.py",
        "d_pre[:, width:] = g * silu",
        "d_pre[:, width:] = g * sig",
        "The gradient of up lacks the factor gate.",
        MLP,
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_mlp.py",
        "d_weights[slots] = (g * act).sum(-1).to(weights.dtype)",
        "d_weights[row_to_token[here]] = (g * act).sum(-1).to(weights.dtype)",
        "The gradients of the weights are stored by token, not by slot.",
        MLP,
    ),
    Mutant(
        "moge_ops/torch_kernels/grouped_mlp.py",
        "while stop < len(found) and found[stop][1] - first < BLOCK_ROWS:",
        "while stop < len(found):",
        "A block holds the rows of all experts, which costs time and memory alone.",
        "",
        "A block's rows are worked on expert by expert, so any cut gives the same products.",
    ),
    Mutant(
        "moge_ops/ops/grouped_mlp.py",
        "save = torch.is_grad_enabled() and any(",
        "save = any(",
        "The pre-activation is kept where no gradient can be asked for.",
        "tests/test_grouped_mlp.py -k under_no_grad",
    ),
    Mutant(
        "moge_ops/ops/grouped_mlp.py",
        "need_d_w=needs.w_gate_up or needs.w_down,",
        "need_d_w=needs.w_gate_up,",
        "w_down alone gets no gradient.",
        "tests/test_grouped_mlp.py -k 'alone and torch'",
    ),
    Mutant(
        "moge_ops/ops/grouped_mlp.py",
        "    ctx.mark_non_differentiable(pre)\n",
        "",
        "The saved pre-activation claims to have a gradient.",
        "tests/test_grouped_mlp.py -k 'pre_activation_has and torch'",
    ),
    # --- balance loss ---
    Mutant(
        "moge_ops/torch_kernels/load_balance_loss.py",
        "ids = torch.where((ids >= 0) & (ids < E), ids, E)",
        "ids = torch.where(ids < E, ids, E).clamp_min(0)",
        "A negative id counts for expert 0.",
        LOSS,
    ),
    Mutant(
        "moge_ops/torch_kernels/load_balance_loss.py",
        'if score == "sigmoid":\n        d_logits *= 1.0 - s',
        'if score == "sigmoid":\n        d_logits *= 1.0 - q',
        "The sigmoid's derivative uses the normalised score.",
        LOSS,
    ),
    Mutant(
        "moge_ops/ops/load_balance_loss.py",
        "return z.square().sum() / max(len(z), 1)",
        "return z.square().mean()",
        "The z-loss of no tokens is NaN.",
        "tests/test_load_balance_loss.py -k z_loss",
    ),
    Mutant(
        "moge_ops/ops/load_balance_loss.py",
        "if logits.shape[1] < 1:",
        "if logits.shape[1] < 0:",
        "Logits without experts reach the kernels.",
        "tests/test_load_balance_loss.py -k rejects",
    ),
    # --- permute, unpermute ---
    Mutant(
        "moge_ops/torch_kernels/permute.py",
        "rows.masked_fill_((row_to_slot < 0).unsqueeze(1), 0.0)",
        "rows.mul_((row_to_slot >= 0).unsqueeze(1))",
        "Rows of no slot are NaN where token 0 is.",
        "tests/test_permute.py -k 'dropped_slots_are_zero and torch'",
    ),
    Mutant(
        "moge_ops/torch_kernels/unpermute.py",
        "weights = torch.stack((high, (weights - high).bfloat16()), -1).flatten(-2)",
        "weights = torch.stack((high, torch.zeros_like(high)), -1).flatten(-2)",
        "Weights are rounded to bfloat16 where there are many rows.",
        UNPERMUTE,
    ),
    Mutant(
        "moge_ops/torch_kernels/unpermute.py",
        "offsets = None if offsets is None else 2 * offsets",
        "offsets = None if offsets is None else offsets",
        "With dropped slots and many rows the bags are cut at the wrong places.",
        UNPERMUTE,
    ),
    Mutant(
        "moge_ops/torch_kernels/unpermute.py",
        "        d_rows[used:] = 0.0\n",
        "",
        "The gradients of rows of no slot stay uninitialised.",
        UNPERMUTE,
    ),
    Mutant(
        "moge_ops/ops/unpermute.py",
        'rows", rows, "[N, H]", _checks.FLOATS), *routing_specs(routing), *optional)',
        'rows", rows, "[N, H]", _checks.FLOATS), *routing_specs(routing))',
        "The weights are not checked.",
        "tests/test_unpermute.py -k rejects",
    ),
    # --- route, swiglu ---
    Mutant(
        "moge_ops/torch_kernels/route.py",
        "order = ids.argsort(stable=True)",
        "order = ids.flip(0).argsort(stable=True).neg() + N - 1",
        "Slots of an expert come in the reverse order.",
        "tests/test_route.py -k 'oracle and torch'",
    ),
    Mutant(
        "moge_ops/torch_kernels/route.py",
        "row_to_slot[used:] = rows[used:] = -1",
        "row_to_slot[used:] = -1",
        "Dropped slots have rows.",
        "tests/test_route.py -k 'dropped and torch'",
    ),
    Mutant(
        "moge_ops/ops/route.py",
        "if T * K > MAX_ROWS:",
        "if T * K > MAX_ROWS + 1:",
        "2^31 slots are accepted, which int32 cannot number.",
        "tests/test_route.py -k rejects",
    ),
    Mutant(
        "moge_ops/torch_kernels/swiglu.py",
        "d_gate = d * up * (sig + silu * (1.0 - sig))",
        "d_gate = d * up * (sig + gate * (1.0 - sig))",
        "The derivative of silu is wrong.",
        "tests/test_swiglu.py -k 'oracle and torch'",
    ),
]
