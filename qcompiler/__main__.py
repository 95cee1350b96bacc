"""python -m qcompiler"""

from qcompiler.cli import main

if __name__ == "__main__":
    main()
