"""Faults of what recognises the gates of transformers' experts."""

from mutant import Mutant

FILE = "moge_ops/integrations/_experts_activation.py"
GATES = "tests/test_experts_gates.py -k '{}'"

MUTANTS = [
    Mutant(
        FILE,
        "        return thread.submit(_found, *facts).result()",
        "        thread.submit(int)\n        return _found(*facts)",
        "The answer for the process depends on the transform that the first call is in.",
        GATES.format("func.grad"),
    ),
    Mutant(
        FILE,
        "    except Exception:\n",
        "    except (AttributeError, TypeError, RuntimeError):\n",
        "A model whose gate checks its input does not run.",
        GATES.format("raises_on_test_numbers"),
    ),
    Mutant(
        FILE,
        "found = _of_gate(gate, function, tuple(numbers), int(width))",
        "found = _of_gate(gate, function, tuple(numbers), 6)",
        "A gate that knows the width of its experts runs in steps.",
        GATES.format("knows_its_width"),
    ),
    Mutant(
        FILE,
        'return experts.__dict__.get("_apply_gate", type(experts)._apply_gate)',
        "return type(experts)._apply_gate",
        "A gate that is set on a module does not run.",
        GATES.format("instance"),
    ),
    Mutant(
        FILE,
        " and _alike(d_pre, _with_gradient(compute, pre)[1])",
        "",
        "A gate whose derivatives differ is replaced.",
        GATES.format("straight_through"),
    ),
    Mutant(
        FILE,
        "_TOLERANCE = 1e-5",
        "_TOLERANCE = 1e-2",
        "A gate that is nearly the same is replaced.",
        GATES.format("steeper"),
    ),
    Mutant(
        FILE,
        "for limit in (None, *limits)",
        "for limit in limits or (None,)",
        "A module that has a limit but whose gate has none runs in steps.",
        GATES.format("unused_limit"),
    ),
    Mutant(
        FILE,
        "if 0.0 < known.get(name, 0.0) < math.inf}",
        "if name in known}",
        "A limit of infinity, which means none, keeps the gate in steps.",
        GATES.format("means_none"),
    ),
]
