"""`python -m lorakit`, which launchers such as `accelerate launch -m lorakit` need."""

from lorakit.cli import main

if __name__ == "__main__":
    main()
