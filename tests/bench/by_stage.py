"""Reads callgrind's output of tests/bench/budget.rs and says where a request's instructions went.

    by_stage.py OUTPUT BINARY COUNT     figures as `name value` lines on stdout, a table in Markdown on stderr

An instruction belongs to the stage in whose source it stands, by the binary's own line tables and through what
was inlined; what such code calls belongs to it too. What a function does that several stages call is shared
out by what each call cost. Cryptography is what stands in the crates and the C library that do it, with all
that they call: valgrind's CPU has neither SHA-NI nor VAES, so its figure there says little about a real one.
"""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache

STAGES = ["route", "authenticate", "authorize", "record", "connect", "unseal", "inject", "send", "scrub"]
OTHER = "between and after"
CRYPTO_CRATES = "aead|aes|aes-gcm|aws-lc-rs|aws-lc-sys|cipher|ctr|ghash|polyval|universal-hash"
CRYPTO_FILE = re.compile(rf"/(?:{CRYPTO_CRATES})-\d+\.\d+\.\d+[^/]*/|/aws-lc/")
CRYPTO_FUNCTION = re.compile(r"^aws_lc_\d")
STAGE_FILE = re.compile(r"(?:^|/)src/stage/(\w+)(?:/|\.rs)")
LIMITS = "limits"  # the stage `authorize` keeps them
ALLOCATION = re.compile(r"^(?:malloc|calloc|realloc|posix_memalign|aligned_alloc|memalign|mi_\w*alloc\w*)(?:@|$)")


class Function:
    def __init__(self):
        self.own = Counter()  # instructions by address
        self.calls = []  # (address, callee, instructions)

    def inclusive(self):
        return sum(self.own.values()) + sum(cost for _, _, cost in self.calls)


def read(path):
    """The functions by (object, name), as callgrind's format is written down in its manual."""
    functions, names = defaultdict(Function), {"ob": {}, "fn": {}}
    place, address, call, total = {"ob": "", "fn": ""}, 0, False, 0

    def named(kind, text):
        number, _, name = text.partition(" ")
        if not number.startswith("("):
            return text
        if name:
            names[kind][number] = name
        return names[kind][number]

    def moved(text, before):
        if text == "*":
            return before
        return before + int(text) if text[0] in "+-" else int(text, 16)

    callee = {}
    for line in open(path, encoding="utf-8", errors="replace"):
        line = line.rstrip("\n")
        key, _, value = line.partition("=")
        if key in ("ob", "fn"):
            place[key] = named(key, value)
        elif key in ("cob", "cfn"):
            callee[key[1:]] = named(key[1:], value)
        elif key == "calls":
            call = True
        elif line.startswith("summary:"):
            total = int(line.split()[1])
        elif line and line[0] in "0123456789+-*":
            where, _, cost = line.split()
            address = moved(where, address)
            function = functions[place["ob"], place["fn"]]
            if not call:
                function.own[address] += int(cost)
            else:
                target = (callee.get("ob", place["ob"]), callee["fn"])
                function.calls.append((address, target, int(cost)))
                call, callee = False, {}
    return functions, total


def source_files(binary, addresses):
    """The source files that each address stands in, from the innermost inlined function outwards."""
    asked = "".join(f"{address:#x}\n" for address in addresses)
    command = ["addr2line", "-a", "-i", "-e", binary]
    said = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    files, here = {}, None
    for line in said.stdout.splitlines():
        if line.startswith("0x"):
            here = files.setdefault(int(line, 16), [])
        else:
            here.append(line.rpartition(":")[0])
    return files


def main(path, binary, count):
    functions, total = read(path)
    ours = [f for (ob, _), f in functions.items() if ob == binary]
    addresses = {a for f in ours for a in f.own} | {a for f in ours for a, _, _ in f.calls}
    files = source_files(binary, sorted(addresses))

    @cache
    def label(ob, address):
        """The stage and the crypto flag that an address has by itself."""
        stage, crypto = None, False
        for file in files.get(address, []) if ob == binary else []:
            crypto = crypto or bool(CRYPTO_FILE.search(file))
            if found := STAGE_FILE.search(file):
                stage = "authorize" if found[1] == LIMITS else found[1]
        return stage, crypto

    under_way = set()

    @cache
    def spent(function, stage, crypto):
        """What one function costs in all, by (stage, what)."""
        ob, name = function
        crypto = crypto or bool(CRYPTO_FUNCTION.match(name))
        by = Counter()
        under_way.add(function)
        for address, cost in functions[function].own.items():
            here, is_crypto = label(ob, address)
            by[stage or here, "crypto" if crypto or is_crypto else "own"] += cost
        for address, callee, cost in functions[function].calls:
            here, is_crypto = label(ob, address)
            here, is_crypto = stage or here, crypto or is_crypto
            if ALLOCATION.match(callee[1]) and not ALLOCATION.match(name):
                # callgrind counts calls outside of the counted part too; the call's own instruction it does not.
                by[here, "allocations"] += functions[function].own[address]
            whole = functions[callee].inclusive()
            if callee in under_way or not whole:
                by[here, "crypto" if is_crypto else "own"] += cost
                continue
            for key, part in spent(callee, here, is_crypto).items():
                by[key] += part * cost / whole
        under_way.discard(function)
        return by

    roots = [function for function in functions if "counted_poll" in function[1]]
    if len(roots) != 1 or not total:
        sys.exit(f"by_stage.py: {len(roots)} functions of the counted name were called, {total} instructions")
    by = spent(roots[0], None, False)
    found = sum(cost for (_, what), cost in by.items() if what != "allocations")
    if abs(found - total) > total / 100:
        sys.exit(f"by_stage.py: {found:.0f} instructions were found, callgrind counted {total}")

    def sum_of(what, stages=None):
        return sum(n for (stage, kind), n in by.items() if kind == what and (stages is None or stage in stages)) / count

    crypto = sum_of("crypto")
    print(f"own {total / count - crypto:.0f}\ncrypto {crypto:.0f}\nallocations {sum_of('allocations'):.1f}")
    rows = [(stage, [stage]) for stage in STAGES] + [(OTHER, [None]), ("**in all**", None)]
    print("| stage | instructions | of them cryptography | allocations |", file=sys.stderr)
    print("| --- | ---: | ---: | ---: |", file=sys.stderr)
    for name, stages in rows:
        own, crypto, allocations = (sum_of(what, stages) for what in ("own", "crypto", "allocations"))
        print(f"| {name} | {own + crypto:,.0f} | {crypto:,.0f} | {allocations:.1f} |", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
