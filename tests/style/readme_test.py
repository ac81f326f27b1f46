"""The README's complete program is the file that the tests build and run, to the letter."""

import pathlib
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Readme(unittest.TestCase):
    def test_own_network(self):
        text = (ROOT / "README.md").read_text()
        shown = text.split("```cpp\n")[1].split("```")[0]
        self.assertEqual(shown, (ROOT / "experiments/own_network/main.cpp").read_text())


if __name__ == "__main__":
    unittest.main()
