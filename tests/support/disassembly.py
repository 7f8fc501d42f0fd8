"""Whether the compiler vectorised the loops: python tests/support/disassembly.py FILE, an extension or object.

Counts the arithmetic of every rule's loops by width. A vectorised loop has packed instructions on the registers of its
instruction set, beside scalar ones for the elements left over; an operation that is only ever scalar, a fused
multiply-add or an approximate root or quotient is a problem. Passes that gather also add their sums, in scalars. Exits
with 1 when there is a problem. x86-64 only.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

RULES = Path(__file__).parents[2] / "csrc/rules"
REGISTERS = {"baseline": ("xmm",), "avx2": ("ymm",), "avx512": ("ymm",), "avx512wide": ("zmm",)}
LOOP = re.compile(rf"^[0-9a-f]+ <_?(?P<rule>\w+)_(?P<dtype>f32|f64)_(?P<isa>{'|'.join(REGISTERS)})(\.\w+)*>:$")
ARITHMETIC = re.compile(r"\tv?(?P<op>add|sub|mul|div|sqrt)(?P<lanes>[ps])[sd]\s.*?(?P<register>[xyz]mm)")
INEXACT = re.compile(r"\t(?P<name>vf[n]?m(?:add|sub)\w+|v?r(?:sqrt|cp)\w+)\s")


def gathering(folder: Path = RULES) -> set[str]:
    """The functions that rules gather with: their first passes, all passes of matrices but the last, and the sums."""
    found = {"sum_squares", "sum_products"}
    for rule in folder.glob("*.h"):
        text = rule.read_text()
        found.update(re.findall(r"\.gather = FN\((\w+)\)", text))
        for passes in re.findall(r"FN\(pass\) \*const FN\(\w+\)\[\] = \{(.*?)\}", text, re.DOTALL):
            found.update(re.findall(r"FN\((\w+)\)", passes)[:-1])
    return found


def updating(rules: Collection[str], folder: Path = RULES) -> set[str]:
    """The loops that update the parameter under these rules: some rules share one."""
    text = "".join(rule.read_text() for rule in folder.glob("*.h"))
    records = dict(re.findall(r"FN\((\w+)_ops\) = \{([^}]*)\}", text))
    found = {rule: re.search(r"\.update = FN\((\w+)\)", records.get(rule, "")) for rule in rules}
    return {update[1] if update else rule for rule, update in found.items()}


def loops(file: Path, rules: set[str]) -> dict[tuple[str, str, str], Counter[str]]:
    """The instructions of every loop in the file: (rule, dtype, isa) -> how many of "mul packed ymm" and so on."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(file)], check=True, capture_output=True, text=True
    ).stdout
    found: dict[tuple[str, str, str], Counter[str]] = {}
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if line.endswith(">:"):
            loop = LOOP.match(line)
            counts = Counter()  # of a function that is no loop, and forgotten
            if loop and loop["rule"] in rules:
                counts = found.setdefault((loop["rule"], loop["dtype"], loop["isa"]), counts)
        elif match := ARITHMETIC.search(line):
            counts[f"{match['op']} {'packed ' + match['register'] if match['lanes'] == 'p' else 'scalar'}"] += 1
        elif match := INEXACT.search(line):
            counts[match["name"]] += 1
    return found


def packed_loops(file: Path, function: str) -> int:
    """How many innermost loops of a function have packed arithmetic on the widest registers of AVX2."""
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(file)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [(int(match[1], 16), match[2]) for match in re.finditer(r"^ *([0-9a-f]+):\t(.*)$", text, re.MULTILINE)]
    spans = []
    for address, instruction in lines:
        jump = re.match(r"j\w+ +([0-9a-f]+) ", instruction)
        if jump and int(jump[1], 16) <= address:
            spans.append((int(jump[1], 16), address))
    innermost = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    packed = [
        address for address, line in lines if (match := ARITHMETIC.search(f"\t{line}")) and match["register"] == "ymm"
    ]
    return sum(any(low <= address <= high for address in packed) for low, high in innermost)


def packed_integers(file: Path) -> dict[str, set[str]]:
    """For each function the registers on which it, or one that it calls, works on packed integers."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(file)], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, set[str]] = {}
    called: dict[str, set[str]] = {}
    for function in re.split(r"^[0-9a-f]+ <", text, flags=re.MULTILINE)[1:]:
        name = function[: function.index(">")]
        packed = r"\tv?p(?:add|sub|and|or|sll|srl|sra|unpck|movzx|movsx)\w*\s.*([xyz]mm)"
        found[name] = set(re.findall(packed, function))
        called[name] = set(re.findall(r"\t(?:call|jmp) +[0-9a-f]+ <([\w.]+)(?:@plt)?>", function)) - {name}
    for _ in called:  # as deep as calls can be
        for name, others in called.items():
            found[name] |= set().union(*(found.get(other, set()) for other in others))
    return found


def problems(file: Path, rules: set[str], gather: Collection[str] = ()) -> list[str]:
    """The faults of the loops of rules in the file, also of loops that gather, one line each."""
    rules = rules.union(gather)
    found = loops(file, rules)
    wrong = []
    for isa in sorted({key[2] for key in found}):
        for dtype in ("f32", "f64"):
            for rule in sorted(rules):
                name, counts = f"{rule}_{dtype}_{isa}", found.get((rule, dtype, isa))
                if counts is None:
                    wrong.append(f"{name}: not in the file")
                    continue
                packed = {key.split()[0] for key in counts if " packed " in key and key.endswith(REGISTERS[isa])}
                scalar = {key.split()[0] for key in counts if key.endswith("scalar")}
                if rule in gather:
                    scalar -= {"add", "sub"}  # of the sums
                if (isa, dtype) == ("baseline", "f64"):
                    pass  # two lanes: for a loop with conditions a compiler may rightly choose scalars
                elif not packed and (scalar or rule not in gather):
                    wrong.append(f"{name}: no packed instruction on {' or '.join(REGISTERS[isa])} registers")
                elif scalar - packed:
                    wrong.append(f"{name}: only scalar {', '.join(sorted(scalar - packed))}")
                wrong += [f"{name}: {key}" for key in counts if INEXACT.match(f"\t{key} ")]
    return wrong


def main(file: Path) -> int:
    rows = updating(re.findall(r"^RULE\((\w+),", (RULES / "rules.def").read_text(), re.MULTILINE))
    found = loops(file, {*rows, *gathering()})
    if not found:
        print(f"{file}: no loops, or no symbols")
        return 1
    for (rule, dtype, isa), counts in sorted(found.items()):
        print(f"{rule}_{dtype}_{isa}: " + ", ".join(f"{n} {key}" for key, n in sorted(counts.items())))
    wrong = problems(file, set(rows), gathering())
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
