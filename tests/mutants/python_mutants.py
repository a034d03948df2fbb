"""Faults of what is no kernel: checks, backends, modules, the model, ranks, the command line."""

from mutant import Mutant

NN = "tests/test_nn.py -k 'not triton and not ascend'"
REJECTS = "tests/test_grouped_mlp.py tests/test_grouped_gemm.py tests/test_swiglu.py -k rejects"
GATE_REJECTS = "tests/test_grouped_gate.py tests/test_route.py tests/test_nn.py -k rejects"
STATISTICS = "tests/test_statistics.py -k 'not triton and not ascend'"
SURGERY = "tests/test_surgery.py"
MODEL = "tests/test_pangu_moe.py -k 'formulas and not numpy'"
GENERATE = "tests/test_pangu_moe.py -k 'prompts or eos or cache'"
LOSSES = "tests/test_pangu_moe.py -k 'loss or labels or neither_term'"
CHECKPOINT = "tests/test_checkpoint.py"
CLI = "tests/test_cli.py"
TOKENIZER = "tests/test_tokenizer.py"
TWO_RANKS = "tests/test_distributed.py -k 'gloo and 2-'"

MUTANTS = [
    # --- checks ---
    Mutant(
        "moge_ops/_checks.py",
        "if x.device != first.device:",
        "if x.device != x.device:",
        "Tensors on several devices reach the kernels.",
        REJECTS,
    ),
    Mutant(
        "moge_ops/_checks.py",
        "if list(x.shape) != expected:",
        "if list(x.shape)[:1] != expected[:1]:",
        "Only the first size of a tensor is compared.",
        REJECTS,
    ),
    Mutant(
        "moge_ops/_checks.py",
        "if size < summand or (size - summand) % factor:",
        "if (size - summand) % factor:",
        "Offsets of no element are accepted.",
        "tests/test_permute.py -k rejects",
    ),
    Mutant(
        "moge_ops/_checks.py",
        "if size < summand or (size - summand) % factor:",
        "if size < summand:",
        "An odd number of columns is taken for two halves.",
        REJECTS,
    ),
    Mutant(
        "moge_ops/_checks.py",
        'if {"N", "T", "K"} <= sizes.keys() and sizes["N"] != sizes["T"] * sizes["K"]:',
        'if {"N", "T", "K"} <= sizes.keys() and sizes["N"] < sizes["T"] * sizes["K"]:',
        "More rows than slots are accepted.",
        "tests/test_permute.py -k rejects",
    ),
    Mutant(
        "moge_ops/_checks.py",
        "if k > num_experts // num_groups:",
        "if k > num_experts:",
        "A group has to give more experts than it holds.",
        GATE_REJECTS,
    ),
    Mutant(
        "moge_ops/_checks.py",
        "if not isinstance(value, int) or isinstance(value, bool):",
        "if not isinstance(value, int):",
        "A bool is taken for an int.",
        GATE_REJECTS,
    ),
    Mutant(
        "moge_ops/_checks.py",
        "(most is not None and value > most):",
        "(most is not None and value >= most):",
        "The largest allowed number is refused.",
        "tests/test_route.py -k 'as_many_experts and torch'",
    ),
    Mutant(
        "moge_ops/_checks.py",
        "if not k <= num_voted <= P:",
        "if not num_voted <= P:",
        "A vote may leave fewer experts than a token takes.",
        GATE_REJECTS,
    ),
    Mutant(
        "moge_ops/_checks.py",
        "x.dtype in (torch.float16, torch.bfloat16, torch.float32)",
        "x.is_floating_point()",
        "Autocast narrows float64.",
        "tests/test_grouped_gemm.py -k 'autocast and torch'",
    ),
    # --- backends ---
    Mutant(
        "moge_ops/_backend.py",
        "b.device == device and b.built()",
        "b.device == device",
        "Tensors of an NPU go to an extension that was built for the emulator.",
        "tests/test_backend.py -k npu",
    ),
    Mutant(
        "moge_ops/_backend.py",
        "return tuple(gradients.get(name) for name in names)",
        "return (*gradients.values(), *[None] * (len(names) - len(gradients)))",
        "Gradients go to the first arguments, whatever their names.",
        "tests/test_grouped_gate.py -k 'every_kind and torch'",
    ),
    Mutant(
        "moge_ops/_backend.py",
        "raise ValueError(f\"backend must be one of {', '.join(BACKENDS)}, got {name!r}\")",
        'return "torch"',
        "An unknown backend falls back in silence.",
        "tests/test_backend.py -k 'unknown or bad_name'",
    ),
    Mutant(
        "moge_ops/_backend.py",
        "return x.contiguous() if isinstance(x, torch.Tensor) and x.dtype in IDS else x",
        "return x",
        "Kernels read a routing of other strides as if it were contiguous.",
        "tests/test_permute.py -k 'any_stride'",
    ),
    # --- modules ---
    Mutant(
        "moge_ops/nn.py",
        "bound = 1.0 / math.sqrt(weight.shape[-1])",
        "bound = 1.0 / math.sqrt(weight.shape[0])",
        "New weights have the scale of the outputs.",
        NN,
    ),
    Mutant(
        "moge_ops/nn.py",
        'self.register_buffer("expert_mask", None, persistent=False)',
        'self.register_buffer("expert_mask", None)',
        "The mask of experts gets into the state dict.",
        "tests/test_nn.py tests/test_surgery.py",
    ),
    Mutant(
        "moge_ops/nn.py",
        "routing = route(gating.experts, E, num_groups=self.num_groups)",
        "routing = route(gating.experts, E)",
        "The layer sorts without the groups, which costs time alone.",
        "",
        "The gate's ids lie in their groups, and test_route compares that both sorts are equal.",
    ),
    Mutant(
        "moge_ops/nn.py",
        "            scaling=self.scaling,\n",
        "",
        "The layer ignores its scaling.",
        NN,
    ),
    Mutant(
        "moge_ops/nn.py",
        "            row_mask=row_mask,\n",
        "",
        "The layer ignores who votes.",
        NN,
    ),
    # --- statistics, surgery ---
    Mutant(
        "moge_ops/statistics.py",
        "layers[layer] = layers[layer] + new if layer in layers else new",
        "layers[layer] = new",
        "A second batch replaces the first.",
        STATISTICS,
    ),
    Mutant(
        "moge_ops/statistics.py",
        "best = weights.argsort(dim=1, descending=True, stable=True)[:, :keep]",
        "best = weights.flip(1).argsort(dim=1, descending=True, stable=True)[:, :keep]\n"
        "            best = P - 1 - best",
        "Of equal experts the highest ids stay.",
        STATISTICS,
    ),
    Mutant(
        "moge_ops/statistics.py",
        'out = module.forward(*args, **{**kwargs, "return_routing": True})',
        "out = module.forward(*args, return_routing=True)",
        "The second call of a layer forgets who votes.",
        STATISTICS,
    ),
    Mutant(
        "moge_ops/surgery.py",
        "router = layer.gate, layer.router_scale, layer.bias, layer.expert_mask",
        "router = layer.gate, layer.router_scale, layer.bias",
        "The mask stays where other experts are now.",
        SURGERY,
    ),
    Mutant(
        "moge_ops/surgery.py",
        "if max(members) >= first + P:",
        "if max(members) > first + P:",
        "The first expert of the next group may enter.",
        SURGERY,
    ),
    # --- the reference model ---
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "positions = (real.cumsum(-1) - 1).clamp_min(0)[:, start:]",
        "positions = columns[None, start:].expand(real.shape[0], -1)",
        "Positions count the padding.",
        GENERATE,
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "seen = real[:, None, :] | ~real[:, start:, None]",
        "seen = real[:, None, :].expand(-1, real.shape[1] - start, -1)",
        "Padding sees nothing and becomes NaN.",
        "tests/test_pangu_moe.py -k 'sees_nothing or padded'",
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "mask = (columns <= columns[start:, None])[None, None]",
        "mask = (columns < columns[start:, None])[None, None]",
        "In a later part of a prompt a token does not see itself.",
        "tests/test_pangu_moe.py -k any_parts",
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "torch.cat([-sin, sin], -2)",
        "torch.cat([sin, -sin], -2)",
        "Positions are rotated the other way round.",
        MODEL,
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "labels = labels.masked_fill(~(real & real.roll(1, 1)), IGNORED)",
        "labels = labels.masked_fill(~real, IGNORED)",
        "A row's first token is predicted from padding.",
        LOSSES,
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "load_balance_loss(router[rows], gates.experts[rows])",
        "load_balance_loss(router, gates.experts)",
        "Padding counts in the balance loss.",
        LOSSES,
    ),
    Mutant(
        "moge_ops/models/pangu_moe.py",
        "done |= torch.isin(chosen, ends)",
        "done = torch.isin(chosen, ends)",
        "A row that has ended goes on.",
        GENERATE,
    ),
    Mutant(
        "moge_ops/models/generation.py",
        "probs = probs.masked_fill(probs.cumsum(-1) - probs >= self.top_p, 0.0)",
        "probs = probs.masked_fill(probs.cumsum(-1) >= self.top_p, 0.0)",
        "The token that reaches top_p is left out, and a likely first one leaves none.",
        "tests/test_pangu_moe.py -k frequencies",
    ),
    Mutant(
        "moge_ops/models/generation.py",
        "if not mask[:, -1].all() or (mask.diff(dim=1) < 0).any():",
        "if not mask[:, -1].all():",
        "Padding in the middle of a prompt is accepted.",
        "tests/test_pangu_moe.py -k wrong",
    ),
    Mutant(
        "moge_ops/models/layout.py",
        'yield f"{at}.gate_proj.weight", f"{here}.moge.{kind}_gate_up", (*index, 0)',
        'yield f"{at}.gate_proj.weight", f"{here}.moge.{kind}_gate_up", (*index, 1)',
        "The released gate projection becomes the up half.",
        "tests/test_pangu_moe.py -k test_logits",
    ),
    Mutant(
        "moge_ops/models/checkpoint.py",
        r're.fullmatch(r"[^/\\]+\.safetensors", file)',
        r're.match(r"[^/\\]+\.safetensors", file)',
        "An index may name a file outside of its folder.",
        "tests/test_checkpoint.py -k stays_in_its_folder",
    ),
    Mutant(
        "moge_ops/models/checkpoint.py",
        "if header.get_dtype() != stored:",
        "if header.get_dtype() not in DTYPES:",
        "Tensors of another dtype than the config says are loaded.",
        CHECKPOINT + " -k 'fit or dtype'",
    ),
    Mutant(
        "moge_ops/models/checkpoint.py",
        "if shards[-1] and part.nbytes > room:",
        "if part.nbytes > room:",
        "A tensor larger than a shard leaves an empty file before it.",
        CHECKPOINT + " -k larger",
    ),
    Mutant(
        "moge_ops/models/tokenizer.py",
        "for text in (SYSTEM + system, USER + user):",
        "for text in (USER + user, SYSTEM + system):",
        "The question comes before the system message.",
        TOKENIZER + " -k prompts_form",
    ),
    Mutant(
        "moge_ops/models/tokenizer.py",
        "self.start, self.done = self.done, len(self.ids)",
        "self.start = self.done = len(self.ids)",
        "A token is decoded without the one before it, so spaces are lost.",
        f"{CLI} {TOKENIZER} -k 'comes_back or whole or streams'",
    ),
    # --- ranks ---
    Mutant(
        "moge_ops/distributed/expert_parallel.py",
        "experts = gating.experts[:, self.own_columns] - self.first_expert",
        "experts = gating.experts[:, self.own_columns]",
        "A rank takes global ids for those of its own experts.",
        TWO_RANKS,
    ),
    Mutant(
        "moge_ops/distributed/expert_parallel.py",
        "part if rank == self.group.rank() else part.detach()",
        "part",
        "The gradient of the balance loss counts other ranks' tokens again.",
        "tests/test_distributed.py -k 'gloo and 4-'",
    ),
    Mutant(
        "moge_ops/distributed/_mesh.py",
        "Partial() if isinstance(placement, Replicate) and name != alike else placement",
        "placement",
        "The gradients of replicated parameters are not added up over the ranks.",
        TWO_RANKS,
    ),
    Mutant(
        "moge_ops/distributed/_mesh.py",
        "if ranks != sorted(ranks):",
        "if ranks == sorted(ranks, reverse=True) and len(ranks) > 8:",
        "A mesh whose ranks are not in ascending order is accepted.",
        TWO_RANKS,
    ),
    Mutant(
        "moge_ops/distributed/_collectives.py",
        "there, back = (received, sent), (sent, received)",
        "there = back = (received, sent)",
        "The gradient of an uneven exchange has the sizes of the way there.",
        TWO_RANKS,
    ),
    Mutant(
        "moge_ops/distributed/loss.py",
        "counts[E + 1] = T\n    counts = sum_over(counts, group)",
        "counts = sum_over(counts, group)\n    counts[E + 1] = T",
        "The mean divides by this rank's tokens.",
        "tests/test_distributed.py -k 'gloo and 4-'",
    ),
    Mutant(
        "moge_ops/distributed/top_k.py",
        "ids = ids.repeat_interleave(received, output_size=sum(received_rows)).unsqueeze(1)",
        "ids = ids.sort().values.repeat_interleave(received, output_size=sum(received_rows))"
        ".unsqueeze(1)",
        "Rows that arrived are taken for sorted by expert.",
        TWO_RANKS,
    ),
    # --- command line ---
    Mutant(
        "moge_ops/cli.py",
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f]",
        r"[\x00-\x08\x0b-\x1a\x7f-\x9f]",
        "An escape sequence of the model steers the terminal.",
        CLI + " -k steer",
    ),
    Mutant(
        "moge_ops/cli.py",
        "need = (parameter_counts(config)[0] + tokens * _cached(config)) * dtype.itemsize",
        "need = parameter_counts(config)[0] * dtype.itemsize",
        "The cache is not counted when the model is loaded.",
        CLI + " -k cache_counts",
    ),
    Mutant(
        "moge_ops/cli.py",
        "if max(ids) >= config.vocab_size:",
        "if max(ids) > config.vocab_size:",
        "An id just past the vocabulary reaches the model.",
        CLI + " -k lacks_one_id",
    ),
    Mutant(
        "moge_ops/cli.py",
        "        if token not in ends:\n            print",
        "        if True:\n            print",
        "The end token is shown.",
        CLI + " -k end_token",
    ),
]
