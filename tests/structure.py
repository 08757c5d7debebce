#!/usr/bin/env python3
"""Prints figures of the structure of the Rust code, and the import cycles between its files.

usage: structure.py [DIRECTORY] [--cycles]

Reads the sources of the root package and of the packages in crates/. A line of code is a line
outside tests that is neither blank nor a comment. An arrow runs from a file that names an item to
the file that defines it: re-exports (`pub use`) are followed. Macros are not expanded.

Exits with 1 if there is a cycle. With --cycles, prints nothing but cycles.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

COMMENT_OR_LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|\bb?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|\'(?:\\(?:u\{[^}]*\}|x..|.)|[^\'\\])\'',
    re.S,
)
TEST_ATTRIBUTE = re.compile(r"#\[cfg\((?:test|any\(test[^\]]*)\)\]|#\[(?:tokio::)?test\b[^\]]*\]")
TEST_MODULE = re.compile(
    r"#\[cfg\((?:test|any\(test[^\]]*)\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))? )?mod (\w+);"
)
ITEM = re.compile(
    r"^ *(?P<visibility>pub(?:\([^)]*\))? )?(?:default |const |async |unsafe )*"
    r"(?P<kind>fn|struct|enum|trait|type|const|static|union|mod|macro_rules!) +(?:mut )?(?P<name>[A-Za-z_]\w*)",
    re.M,
)
USE = re.compile(r"(?m)^ *(pub(?:\([^)]*\))? )?use ([^;]+);")
PATH = re.compile(r"\b((?:[A-Za-z_]\w*::)+[A-Za-z_]\w*)")
ERROR_ENUM = re.compile(r"#\[derive\([^)]*\bError\b[^)]*\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))? )?enum ")


def strip(text):
    """Removes comments and the contents of literals, and keeps the number of lines."""

    def replace(match):
        found = match.group(0)
        kept = "" if found.startswith("/") else '""'
        return kept + "\n" * found.count("\n")

    return COMMENT_OR_LITERAL.sub(replace, text)


def end_of_item(code, index):
    """Returns the position after the item that starts at `index`."""
    depth = 0
    while index < len(code):
        char = code[index]
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return index + 1
        elif char == ";" and depth == 0:
            return index + 1
        index += 1
    return index


def split_tests(code):
    """Returns the code outside test items, and the number of code lines inside them."""
    kept, position, lines = [], 0, 0
    for match in TEST_ATTRIBUTE.finditer(code):
        if match.start() < position:
            continue
        kept.append(code[position : match.start()])
        position = end_of_item(code, match.end())
        lines += count_lines(code[match.start() : position])
    kept.append(code[position:])
    return "".join(kept), lines


def count_lines(code):
    return sum(1 for line in code.splitlines() if line.strip())


def imports(code):
    """Yields whether an import is public, its path as a list, and its local name."""
    for match in USE.finditer(code):
        tree = re.sub(r"\s+", " ", match.group(2)).strip()
        for path, name in expand(tree):
            yield bool(match.group(1)), path, name


def expand(tree):
    """Yields the path and the local name of each item of a tree of imports."""
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, alias = tree.strip().partition(" as ")
        parts = [part for part in path.split("::") if part]
        yield parts, alias or (parts[-1] if parts else "")
        return
    prefix = [part for part in head.strip().split("::") if part]
    depth, start, inner = 0, 0, rest[: rest.rindex("}")]
    for index, char in enumerate(inner + ","):
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
        elif char == "," and depth == 0:
            part = inner[start:index].strip()
            start = index + 1
            if part.split(" as ")[0] == "self":
                yield prefix, part.removeprefix("self as ") if " as " in part else prefix[-1]
            elif part:
                for path, name in expand(part):
                    yield prefix + path, name


def functions(code):
    """Yields the name of each function and its number of lines."""
    for match in ITEM.finditer(code):
        if match.group("kind") != "fn":
            continue
        end = end_of_item(code, match.end())
        yield match.group("name"), code.count("\n", match.start("kind"), end) + 1


class Sources:
    """Files of all packages, by name and by module path."""

    def __init__(self, root):
        self.root = root
        self.packages = {"prewarmer": root / "src"}
        for manifest in sorted(root.glob("crates/*/Cargo.toml")):
            name = re.search(r'^name = "([^"]+)"', manifest.read_text(), re.M).group(1)
            self.packages[name.replace("-", "_")] = manifest.parent / "src"
        self.modules, self.module_of, self.code, self.text = {}, {}, {}, {}
        self.test_lines = 0
        for package, folder in self.packages.items():
            self.read_package(package, folder)
        self.defined = {
            name: {m.group("name") for m in ITEM.finditer(code) if m.group("kind") != "mod"}
            for name, code in self.code.items()
        }
        self.imported = {
            name: {alias: path for _, path, alias in imports(code)}
            for name, code in self.code.items()
        }

    def read_package(self, package, folder):
        texts = {path: path.read_text() for path in sorted(folder.rglob("*.rs"))}
        tests = set()
        for path, text in texts.items():
            home = path.parent if path.stem in ("mod", "lib", "main") else path.with_suffix("")
            for match in TEST_MODULE.finditer(text):
                tests |= {home / f"{match.group(1)}.rs", home / match.group(1)}
        for path, text in texts.items():
            code, lines = split_tests(strip(text))
            if path in tests or any(parent in tests for parent in path.parents):
                self.test_lines += count_lines(strip(text))
                continue
            self.test_lines += lines
            name = str(path.relative_to(self.root))
            parts = list(path.relative_to(folder).with_suffix("").parts)
            if parts[-1] in ("mod", "lib"):
                parts.pop()
            module = (package, *parts)
            self.modules[module], self.module_of[name] = name, module
            self.code[name], self.text[name] = code, text

    def absolute(self, module, path):
        """Returns the absolute form of a path in a module; None for other crates."""
        if path[0] == "crate":
            return (module[0], *path[1:])
        if path[0] in self.packages:
            return tuple(path)
        base, path = list(module), list(path)
        if path[0] == "self":
            return (*base, *path[1:])
        if path[0] != "super":
            return (*base, *path) if (*base, path[0]) in self.modules else None
        while path and path[0] == "super":
            path.pop(0)
            if base:
                base.pop()
        return (*base, *path)

    def definition(self, path, seen=frozenset()):
        """Returns the file that defines the item of an absolute path, and the item."""
        if path in self.modules or path in seen:
            return None
        for cut in range(len(path) - 1, 0, -1):
            module, item, rest = path[:cut], path[cut], path[cut + 1 :]
            name = self.modules.get(module)
            if name is None:
                continue
            if item in self.defined[name]:
                return name, item
            targets = [self.imported[name].get(item)]
            targets += [p[:-1] + [item] for p in self.imported[name].values() if p[-1] == "*"]
            for target in filter(None, targets):
                full = self.absolute(module, target)
                found = full and self.definition((*full, *rest), seen | {path})
                if found:
                    return found
            return None
        return None

    def arrows(self):
        """Returns, by file and by file named in it, the items."""
        result = defaultdict(lambda: defaultdict(set))
        for name, code in self.code.items():
            paths = [path for public, path, _ in imports(code) if not public]
            for match in PATH.finditer(USE.sub("", code)):
                path = match.group(1).split("::")
                local = self.imported[name].get(path[0])
                paths.append(local + path[1:] if local else path)
            for path in paths:
                full = self.absolute(self.module_of[name], path)
                found = full and self.definition(full)
                if found and found[0] != name:
                    result[name][found[0]].add(found[1])
        return result


def cycles(arrows):
    """Returns the strongly connected components of several files (Tarjan's algorithm)."""
    index, low, stack, result = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in arrows.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                result.append(sorted(group))

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return result


def print_figures(sources, arrows, groups):
    lines = {name: count_lines(code) for name, code in sources.code.items()}
    functions_by_length = [
        (length, f"{name}, {function}")
        for name, code in sources.code.items()
        for function, length in functions(code)
    ]
    public = sum(
        1
        for code in sources.code.values()
        for match in ITEM.finditer(code)
        if match.group("visibility") == "pub "
    )
    top = sources.root / "src"
    modules = [p for p in top.iterdir() if p.is_dir() or p.name not in ("lib.rs", "main.rs")]
    longest = max(lines, key=lines.get)
    length, function = max(functions_by_length)
    rows = [
        ("lines of code", sum(lines.values())),
        ("lines of unit tests", sources.test_lines),
        ("packages with programs or libraries", len(sources.packages)),
        ("files", len(lines)),
        ("modules at the top level of src", len([p for p in modules if p.stem != "bin"])),
        ("arrows between files", sum(len(targets) for targets in arrows.values())),
        ("cycles of files", len(groups)),
        ("files in cycles", sum(len(group) for group in groups)),
        ("longest file, lines of code", f"{lines[longest]} ({longest})"),
        ("longest function, lines", f"{length} ({function})"),
        ("functions above 60 lines", sum(1 for length, _ in functions_by_length if length > 60)),
        ("public items (`pub`)", public),
        ("error enums", sum(len(ERROR_ENUM.findall(code)) for code in sources.code.values())),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def main():
    root = Path(next((a for a in sys.argv[1:] if not a.startswith("--")), "."))
    sources = Sources(root)
    arrows = sources.arrows()
    groups = cycles(arrows)
    if "--cycles" not in sys.argv:
        print_figures(sources, arrows, groups)
    for group in groups:
        print(f"{len(group)} files import each other in a cycle:")
        for source in group:
            for target in sorted(set(arrows[source]) & set(group)):
                print(f"  {source} -> {target}: {', '.join(sorted(arrows[source][target]))}")
    sys.exit(1 if groups else 0)


if __name__ == "__main__":
    main()
