#!/usr/bin/env python3
"""Checks OCI image layouts and plugin archives of deploy/images.sh and deploy/plugin.sh: each has a
static program for each architecture.

usage: image_layout.py OUT IMAGE...
"""

import io
import json
import struct
import sys
import tarfile
from pathlib import Path

# e_machine of ELF.
MACHINES = {"amd64": 62, "arm64": 183}
PT_INTERP = 3
# Compressed size of an image, in bytes. Nodes pull the helper before anything else; it was 0.50 MB. The
# server has no bound: the tests build it without optimization.
MAX_BYTES = {"prewarmer-helper": 512 * 1024}


class LayoutError(Exception):
    """A layout or program that is not as documented."""


def blob(layout, descriptor):
    algorithm, digest = descriptor["digest"].split(":")
    return (layout / "blobs" / algorithm / digest).read_bytes()


def check_program(name, program, architecture):
    """Raises unless the program is a static 64-bit ELF program of the architecture."""
    if program[:5] != b"\x7fELF\x02":
        raise LayoutError(f"{name}: not a 64-bit ELF program")
    machine = struct.unpack_from("<H", program, 18)[0]
    if machine != MACHINES[architecture]:
        raise LayoutError(f"{name}: e_machine is {machine}, expected {MACHINES[architecture]} ({architecture})")
    offset = struct.unpack_from("<Q", program, 32)[0]
    size, count = struct.unpack_from("<HH", program, 54)
    kinds = [struct.unpack_from("<I", program, offset + size * index)[0] for index in range(count)]
    if PT_INTERP in kinds:
        raise LayoutError(f"{name}: the program is linked dynamically")


def manifests(layout, descriptor):
    """Returns the image manifests below an index, or the manifest itself."""
    content = json.loads(blob(layout, descriptor))
    if "manifests" in content:
        return [found for entry in content["manifests"] for found in manifests(layout, entry)]
    return [content]


def check_image(layout):
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    found = {}
    for manifest in [found for entry in index["manifests"] for found in manifests(layout, entry)]:
        config = json.loads(blob(layout, manifest["config"]))
        found[config["architecture"]] = (config, manifest)
    if sorted(found) != sorted(MACHINES):
        raise LayoutError(f"{layout}: variants for {sorted(found)}, expected {sorted(MACHINES)}")
    for architecture, (config, manifest) in found.items():
        [entrypoint] = config["config"]["Entrypoint"]
        size = sum(layer["size"] for layer in manifest["layers"])
        if size > MAX_BYTES.get(layout.name, size):
            raise LayoutError(f"{layout}, {architecture}: {size} bytes, expected at most {MAX_BYTES[layout.name]}")
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(layout, layer))) as files:
                members = {"/" + member.name.lstrip("./"): member for member in files.getmembers()}
                program = files.extractfile(members[entrypoint]).read()
        check_program(f"{layout}, {architecture}", program, architecture)


def check_archive(path, architecture):
    with tarfile.open(path) as files:
        member = next(member for member in files.getmembers() if member.name.split("/")[-1] == "kubectl-prewarm")
        check_program(str(path), files.extractfile(member).read(), architecture)


def main(out, images):
    for image in images:
        check_image(out / image)
    for architecture in MACHINES:
        check_archive(out / "plugin" / f"kubectl-prewarm-linux-{architecture}.tar.gz", architecture)
    print(f"images: {', '.join(images)} and the plugin have static programs for {' and '.join(MACHINES)}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
