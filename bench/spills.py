"""Whether the register tiles keep their sums in registers: a tile that stores them in its inner loop takes twice the time,
and nothing else tells of it. Looks at the machine code of x86-64: vectors that are stored to the stack between two products.

Usage: python bench/spills.py [BINARY]     (default: target/release/convoke; needs nm and objdump)
"""

import pathlib
import re
import subprocess
import sys

TILES = r"::(gemm|dots)::tile::"
PRODUCT = r"vfmadd|vdpbf16ps|vpdpbusd|vpmaddwd"
STORE = r"vmov\w+ +%[zy]mm\d+,.*\(%r[sb]p\)"
# Products of one tile stand close together; what is farther apart belongs to its end.
NEAR = 8


def lines(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def spills(binary, start, size):
    code = lines("objdump", "-d", "--no-show-raw-insn", f"--start-address={start}", f"--stop-address={start + size}", binary)
    products = [i for i, line in enumerate(code) if re.search(PRODUCT, line)]
    pairs = [(a, b) for a, b in zip(products, products[1:]) if b - a < NEAR]
    return len(products), sum(bool(re.search(STORE, line)) for a, b in pairs for line in code[a:b])


def main():
    home = pathlib.Path(__file__).resolve().parent.parent
    binary = sys.argv[1] if len(sys.argv) > 1 else str(home / "target/release/convoke")
    looked, bad = 0, 0
    for line in lines("nm", "-S", "-C", binary):
        found = re.match(r"([0-9a-f]+) ([0-9a-f]+) \w (.*)", line)
        if not found or not re.search(TILES, found[3]):
            continue
        products, stores = spills(binary, int(found[1], 16), int(found[2], 16))
        looked += products > 0
        if stores > 2:
            bad += 1
            print(f"{found[3]} at {found[1]}: {stores} stores among {products} products")
    print(f"{looked} tiles, {bad} of them keep sums in memory")
    sys.exit(bad > 0 or looked == 0)


main()
