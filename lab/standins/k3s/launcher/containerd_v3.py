"""containerd's configuration of version 3 in the words of version 2, for a containerd 1.6.

The CRI plugin's settings, which 2.x has split, are put together again: its docs/cri/config.md has both forms.
A setting under a name of version 2 is dropped with a warning, as a containerd 2.x ignores it.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

from launcher import log

_CRI = "io.containerd.grpc.v1.cri"
_RUNTIME, _IMAGES = "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"
#: What of the old plugin's section is still read in version 3: its stream server.
_SERVER = {"disable_tcp_service", "stream_server_address", "stream_server_port", "stream_idle_timeout"}
_SERVER |= {"enable_tls_streaming", "x509_key_pair_streaming"}

Table = dict[str, Any]


def as_version_2(text: str) -> str:
    """The configuration as version 2; one that is of no version 3 already is given back as it is.

    Raises log.Fatal for what is no TOML, as containerd would end.
    """
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise log.Fatal(f"containerd: failed to load TOML: {error}") from error
    if config.get("version") != 3:
        return text
    plugins = config.setdefault("plugins", {})
    server, images = plugins.pop(_CRI, {}), plugins.pop(_IMAGES, {})
    cri: Table = plugins.pop(_RUNTIME, {})
    for name in sorted(server.keys() - _SERVER):
        log.warning(f"containerd: ignoring unknown key {name!r} of plugin {_CRI}")
    cri |= {name: value for name, value in server.items() if name in _SERVER}
    cni = cri.get("cni", {})
    if "bin_dirs" in cni:
        cni["bin_dir"] = cni.pop("bin_dirs")[0]
    if sandbox := images.get("pinned_images", {}).get("sandbox"):
        cri["sandbox_image"] = sandbox
    if "registry" in images:
        cri["registry"] = images["registry"]
    containerd = cri.setdefault("containerd", {})
    for name in ("snapshotter", "disable_snapshot_annotations"):
        if name in images:
            containerd[name] = images[name]
    plugins[_CRI] = cri
    return "\n".join(_lines({**config, "version": 2}, ())) + "\n"


def _lines(table: Table, path: tuple[str, ...]) -> list[str]:
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    found = [f"[{'.'.join(json.dumps(part) for part in path)}]"] if path and plain else []
    found += [f"{json.dumps(name)} = {_value(value)}" for name, value in plain.items()]
    for name, value in table.items():
        if isinstance(value, dict):
            found += _lines(value, (*path, name))
    return found


def _value(value: object) -> str:
    # JSON's strings, numbers, booleans and lists of them are TOML's too
    return json.dumps(value)
