"""`python -m aip_tf` is `aip_run`."""

from aip_tf.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
