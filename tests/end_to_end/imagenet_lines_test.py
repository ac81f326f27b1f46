"""The lines of experiments/imagenet/README.md are what the program accepts: each is planned, with small images."""

import pathlib
import re
import shlex
import unittest

from support import RunTest

HERE = pathlib.Path(__file__).resolve()
IMAGENET = HERE.parents[2] / "experiments" / "imagenet"


class Lines(RunTest):
    def test_every_line_can_be_planned(self):
        lines = re.findall(r"^sbatch (.*)$", (IMAGENET / "README.md").read_text(), re.MULTILINE)
        self.assertEqual(len(lines), 19)
        pack = self.folder / "pack.h5"
        self.succeed("pack", "fashion-mnist", pack)
        kinds = set()
        for line in lines:
            words = shlex.split(line)
            nodes, tasks = (int(re.search(rf"--{name}=(\d+)", line)[1]) for name in ("nodes", "ntasks-per-node"))
            arguments = words[words.index("cluster/slurm/train.sbatch") + 1:]
            config = arguments[arguments.index("--config") + 1]
            arguments[arguments.index("--config") + 1] = HERE.parents[2] / config
            batch = int(arguments[arguments.index("--batch") + 1])
            # Fine-tuning begins somewhere, and the files' rates are for other batches.
            self.assertEqual("--init resnet50.pth" in line, config.endswith("resnet50-mean-field.ini"), line)
            self.assertEqual("--lr " in line, "--optimizer lars" in line, line)
            ranks = nodes * tasks
            with self.subTest(line=line):
                # Fashion-MNIST in the place of ImageNet, and few examples a rank: what is held is that the options go together.
                arguments[arguments.index("--batch") + 1] = 2 * ranks
                dropped = {"--out", "--init", "resnet50.pth"}  # no such file here, and of other classes
                arguments = [word for word in arguments if word not in dropped and not str(word).startswith("runs/")]
                plan = self.succeed("plan", *arguments, "--data", f"pack:{pack}", "--image-size", "32", "--ranks", ranks,
                                    "--threads", 1, "--json").json
                self.assertEqual(plan["ranks"], ranks)
                self.assertEqual(batch % ranks, 0)
            kinds.add((pathlib.Path(config).stem, ranks))
        networks, methods = ("resnet18", "resnet50"), ("point", "mean-field", "ivon")
        self.assertEqual(kinds, {(f"{n}-{m}", r) for n in networks for m in methods for r in (8, 64, 256)})


if __name__ == "__main__":
    unittest.main()
