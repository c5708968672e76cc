"""`python -m aip_tf` is `aip_run`."""

from aip_tf.cli import program

if __name__ == "__main__":
    raise SystemExit(program())
