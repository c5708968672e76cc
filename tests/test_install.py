"""A wheel, installed in a folder with no checkout in sight, gives a working `aip_run`."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest


def run(*command, cwd):
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_brings_the_command_and_its_gin_files(root, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    copy = tmp_path / "source"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info"))
    run(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, copy, cwd=tmp_path)
    (wheel,) = tmp_path.glob("aip_tf-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    expected = {f"aip_tf/{path.relative_to(root)}" for path in (root / "gin").rglob("*.gin")}
    assert expected <= set(names)
    assert not [name for name in names if name.startswith(("tests", "gin/", "benchmarks"))]

    run(python, "-m", "pip", "install", "--no-deps", "--quiet", wheel, cwd=tmp_path)
    # The dependencies are those of the tests: downloading them once more would prove nothing.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    with open(f"{site.strip()}/dependencies.pth", "w") as pth:
        pth.write(sysconfig.get_path("purelib"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = run(python, "-c", "import aip_tf; print(aip_tf.__file__)", cwd=elsewhere)
    assert where.startswith(str(tmp_path))
    command = tmp_path / "venv" / "bin" / "aip_run"
    assert "aip_run --gin_file" in run(command, "--help", cwd=elsewhere)
    for name in ("digits.gin", "gin/digits.gin"):
        plan = run(command, f"--gin_file={name}", "--dry_run", cwd=elsewhere)
        assert "after epoch" in plan
