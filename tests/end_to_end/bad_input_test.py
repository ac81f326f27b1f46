"""Bad input: one clear sentence, the right exit code on every rank, nothing lost, no hang."""

import gzip
import os
import struct
import subprocess
import unittest

from support import ENVIRONMENT, EXECUTABLE, MOONS, MPIRUN, RunTest, checkpoints, files, finish, run, start_ranks


def idx(images, labels, pixels=28):
    data = bytes(range(256)) * ((len(labels) * pixels * pixels) // 256 + 1)
    head = struct.pack(">IIII", 2051, images, pixels, pixels)
    return head + data[: len(labels) * pixels * pixels], struct.pack(">II", 2049, len(labels)) + bytes(labels)


class CommandLine(RunTest):
    def refuse(self, *arguments, words=(), ranks=2, code=2):
        self.assert_refused(run(*arguments, "--out", self.folder / "run", ranks=ranks), code, *words)
        self.assertEqual(checkpoints(self.folder / "run") if (self.folder / "run").exists() else [], [])

    def test_unknown_option_and_values(self):
        self.refuse("train", "--optimiser", "adam", words=("--optimiser", "--optimizer"))
        for option, value, near in (("--data", "mnits:x", "mnist"), ("--network", "lenet", "lenet5"),
                                    ("--posterior", "meanfield", "mean-field"), ("--prior", "gauss", "normal"),
                                    ("--likelihood", "categoric", "categorical"), ("--optimizer", "adm", "adam"),
                                    ("--noise", "shards", "shard"), ("--reduction", "three", "tree"),
                                    ("--estimator", "flip", "reparam"), ("--device", "gpu", "cpu"),
                                    ("--lr-schedule", "cos", "cosine"), ("--precision", "float16", "float")):
            with self.subTest(option=option):
                self.refuse("train", option, value, words=(value.split(":")[0], near), ranks=1)

    def test_numbers_out_of_range(self):
        for option, value in (("--lr", "fast"), ("--lr", "-1"), ("--batch", "0"), ("--batch", "1.5"), ("--epochs", "0"),
                              ("--epochs", "-3"), ("--steps", "0"), ("--shards", "0"), ("--seed", "-1"), ("--keep", "1"),
                              ("--prior", "normal:0"), ("--kl-warmup", "2"), ("--weight-samples", "0"),
                              ("--initial-scale", "0"), ("--timeout-seconds", "0"), ("--beta1", "1"),
                              ("--clip-norm", "nan"), ("--hess-init", "0"), ("--clip-radius", "-1"), ("--lars-trust", "-1"), ("--log-every", "0"),
                              ("--temperature", "-1"), ("--kl-weight", "-1"), ("--initial-scale", "1e40"),
                              ("--lr-warmup", "-5"), ("--max-bad-records", "-1"), ("--stop-after", "-3"),
                              ("--checkpoint-every", "-1"), ("--momentum", "5"), ("--swag-start", "1"), ("--swag-every", "0"),
                              ("--keep", "5000000000"), ("--steps", "5000000000"), ("--shards", "4294967297"),
                              ("--epochs", "900000000"), ("--loader-threads", "0"), ("--threads", "0")):
            with self.subTest(option=option, value=value):
                self.refuse("train", *[item for item in MOONS if option != "--batch" or item not in ("--batch", "64")],
                            option, value, ranks=1)

    def test_combinations(self):
        self.refuse("train", *MOONS, "--kl-weight", "0.5", "--temperature", "0.5", words=("--kl-weight",))
        self.refuse("train", *MOONS, "--epochs", "2", "--steps", "5", words=("--steps",))
        for options, way_out in ((("--posterior", "point"), "use adam or sgd"), (("--clip-norm", "1"), "--clip-radius"),
                                 (("--initial-scale", "0.1"), "--hess-init"), (("--scale-lr", "0.1"), "leave --scale-lr"),
                                 (("--temperature", "0"), "positive KL weight"), (("--posterior", "low-rank:2"), "use adam"),
                                 (("--prior", "fc1=student-t"), "use adam")):
            self.refuse("train", *MOONS, "--optimizer", "ivon", *options, words=(way_out,))
        self.refuse("train", *MOONS, "--optimizer", "lars", "--clip-norm", "1", words=("leave --clip-norm out",))
        self.refuse("train", *MOONS, "--prior", "none", words=("mean-field",))
        self.refuse("train", *MOONS[:2], "--network", "lenet5", words=("lenet5",))
        self.refuse("train", *MOONS, "--noise", "antithetic", "--shards", "1", ranks=1, words=("antithetic",))

    def test_estimators_that_do_not_fit(self):
        self.refuse("train", *MOONS, "--estimator", "score", words=("--weight-samples is 1", "--estimator reparam"))
        self.refuse("train", *MOONS[:2], "--network", "mlp:1000,1000", "--estimator", "score", "--weight-samples", "8",
                    words=("1006002 weights", "--weight-samples 101"))
        self.refuse("train", *MOONS, "--estimator", "score", "--weight-samples", "4", "--posterior", "fc1=point",
                    words=("fc1.weight", "mean-field"))
        self.refuse("train", *MOONS, "--estimator", "flipout", "--posterior", "dropout:0.1", words=("dropout:0.1", "reparam"))
        self.refuse("train", *MOONS[:2], "--network", "constant", "--estimator", "local-reparam", words=("credence::Linear",))
        self.refuse("train", *MOONS, "--estimator", "flipout", "--noise", "antithetic", words=("--noise shared",))
        self.refuse("train", "--network", "vit:7,1,16,2", "--estimator", "flipout", words=("tokens", "--estimator reparam"))

    def test_posteriors_that_do_not_fit(self):
        self.refuse("train", *MOONS, "--posterior", "point", "--prior", "horseshoe:0.1", words=("infinite at zero", "mean-field"))
        self.refuse("train", "--network", "resnet20", "--posterior", "full-rank", words=("4096", "low-rank:K"))
        self.refuse("train", *MOONS, "--posterior", "sparse", "--prior", "normal:1", words=("log-uniform", "leave --prior out"))
        self.refuse("train", *MOONS, "--posterior", "dropout:0.1", "--temperature", "0.5", words=("entropy", "--kl-weight"))
        self.refuse("train", *MOONS, "--posterior", "laplace", "--kl-weight", "0", words=("no prior", "--posterior point"))

    def test_ranks_and_shards(self):
        self.refuse("train", *MOONS, "--shards", "2", ranks=4, words=("--shards 2", "4 ranks"))
        self.refuse("train", *MOONS, "--shards", "6", "--reduction", "tree", words=("power of two",))
        self.refuse("train", *MOONS, ranks=3, words=("3 ranks",))
        self.refuse("train", *MOONS[:-2], "--batch", "63", "--shards", "2", words=("63",))

    def test_command_missing_or_unknown(self):
        self.assert_refused(run(), 2, "command")
        self.assert_refused(run("trian"), 2, "trian", "train")
        self.assert_refused(run("inspect"), 2, "inspect")
        self.assert_refused(run("evaluate", ranks=2), 2, "--checkpoint")

    def test_ranks_started_with_different_options(self):
        common = [EXECUTABLE, "train", *MOONS, "--steps", "5", "--out", str(self.folder / "run")]
        command = [MPIRUN, "--oversubscribe", "-np", "1", *common, "--lr", "0.01", ":", "-np", "1", *common, "--lr", "0.02"]
        result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        self.assertEqual(result.returncode, 2, result)
        self.assertIn("--lr", result.stderr)

    def test_config_file(self):
        config = self.folder / "run.ini"
        config.write_text("network = mlp:4\nlearning-rate = 1\n")
        self.refuse("train", *MOONS[:2], "--config", config, words=("learning-rate", "line 2"))
        self.refuse("train", *MOONS, "--config", self.folder / "missing.ini", words=("missing.ini",))
        self.refuse("train", *MOONS, "--config", self.folder, words=(str(self.folder), "not a regular file"))

    def test_a_new_run_does_not_replace_its_config_file(self):
        config = self.folder / "run" / "config.ini"
        config.parent.mkdir()
        text = f"data = moons\nnetwork = mlp:4\nsteps = 2\nout = {config.parent}\n"
        config.write_text(text)
        for more in ((), ("--overwrite",)):
            self.refuse("train", "--config", config, *more, words=(str(config), "another folder"))
            self.assertEqual(config.read_text(), text)

    def test_numbers_of_other_commands_out_of_range(self):
        self.succeed("train", *MOONS, "--steps", 2, "--progress", "none", "--out", self.folder / "kept")
        loaded = ("--checkpoint", self.folder / "kept")
        images = ("images:/nowhere", self.folder / "pack.h5")
        for command, option, value, rest in (("evaluate", "--samples", "0", loaded), ("evaluate", "--max-bad-records", "-1", loaded),
                                             ("evaluate", "--timeout-seconds", "-1", loaded),
                                             ("predict", "--samples", "-2", (*loaded, "--data", "moons")),
                                             ("predict", "--examples", "5-2", (*loaded, "--data", "moons")),
                                             ("export", "--draws", "0", (*loaded, "--to", "netcdf", self.folder / "draws.nc")),
                                             ("plan", "--ranks", "0", ()), ("plan", "--batch", "-1", ()), ("plan", "--stop-after", "-1", ()),
                                             ("pack", "--max-bad-records", "-1", images),
                                             ("pack", "--quality", "101", ("--encoding", "jpeg", *images))):
            with self.subTest(command=command, option=option):
                self.assert_refused(run(command, option, value, *rest), 2, option)

    def test_refused_overwrite_leaves_the_run(self):
        kept = self.folder / "kept"
        self.succeed("train", *MOONS, "--steps", 9, "--checkpoint-every", 3, "--progress", "none", "--out", kept, ranks=2)
        before = files(kept)
        self.assertIn("log-1.txt", before)
        for option, value in (("--lr", "fast"), ("--data", "csv:/nowhere.csv"), ("--network", "lenet"), ("--prior", "gauss"),
                              ("--posterior", "meanfield"), ("--likelihood", "categoric"), ("--optimizer", "adm"),
                              ("--lr-schedule", "cos"), ("--noise", "shards"), ("--estimator", "flip"), ("--weight-samples", "0"),
                              ("--augment", "rotate"), ("--laplace-precision", "much"), ("--progress", "loud"), ("--keep", "1"),
                              ("--epochs", "0"), ("--batch", "63"), ("--init", self.folder / "nothing.h5")):
            with self.subTest(option=option):
                options = {**dict(zip(MOONS[::2], MOONS[1::2])), option: value}
                result = run("train", *[word for pair in options.items() for word in pair], "--shards", 2, "--overwrite", "--out", kept)
                self.assertIn(result.code, (2, 65, 74), result)
                self.assertEqual(files(kept), before)
        self.succeed("train", *MOONS, "--seed", 3, "--steps", 2, "--overwrite", "--progress", "none", "--out", kept)
        self.assertEqual(sorted(files(kept)), ["checkpoint-00000002.h5", "config.ini", "log.txt", "status.json"])
        self.assertNotIn("checkpoint-00000009", (kept / "log.txt").read_text())

    def test_refused_command_leaves_the_status(self):
        kept = self.folder / "kept"
        self.succeed("train", *MOONS, "--steps", 5, "--progress", "none", "--out", kept)
        before = (kept / "status.json").read_bytes()
        self.assert_refused(run("train", "--out", kept, "--lr", "0.5", ranks=2), 2, "--lr")
        self.assert_refused(run("train", "--out", kept, "--steps", 9, "--progress", "loud"), 2, "loud")
        self.assertEqual((kept / "status.json").read_bytes(), before)

    def test_resume_into_a_directory_of_another_run(self):
        for seed in (1, 2):
            self.succeed("train", *MOONS, "--seed", seed, "--steps", 5, "--progress", "none", "--out", self.folder / str(seed))
        before = files(self.folder / "2")
        result = run("train", "--resume", checkpoints(self.folder / "1")[-1], "--steps", 9, "--out", self.folder / "2", ranks=2)
        self.assert_refused(result, 2, "--seed is 1 and 2", "another --out")
        after = files(self.folder / "2")
        self.assertEqual({name: after[name] for name in before}, before)

    def test_resume_with_other_options(self):
        options = ("train", *MOONS, "--steps", 5, "--progress", "none", "--out", self.folder / "kept")
        self.succeed(*options)
        before = checkpoints(self.folder / "kept")[-1].read_bytes()
        self.assert_refused(run(*options, "--lr", "0.1", "--seed", 3, ranks=2), 2, "--lr", "--seed")
        self.assert_refused(run("train", "--out", self.folder / "kept", "--network", "mlp:7"), 2, "--network")
        self.assertEqual(checkpoints(self.folder / "kept")[-1].read_bytes(), before)
        self.succeed("train", "--lr", "0.0050", "--out", self.folder / "kept")


class Data(RunTest):
    def write(self, images, labels):
        self.folder.mkdir(exist_ok=True)
        (self.folder / "train-images-idx3-ubyte").write_bytes(images)
        (self.folder / "train-labels-idx1-ubyte").write_bytes(labels)

    def refuse(self, *words, data=None, ranks=2):
        result = run("train", "--data", data or f"mnist:{self.folder}", "--network", "mlp:4", "--batch", "4", "--steps", "3",
                     "--out", self.folder / "run", "--progress", "none", ranks=ranks)
        self.assert_refused(result, 65, *words)

    def test_missing_directory_or_file(self):
        self.refuse("nowhere", data="mnist:/nowhere")
        self.refuse("train-images")
        self.refuse("absent.csv", data=f"csv:{self.folder}/absent.csv")

    def test_truncated_wrong_magic_and_labels_out_of_range(self):
        images, labels = idx(20, [1] * 20)
        self.write(images[:-5], labels)
        self.refuse("train-images")
        self.write(b"\0\0\x08\x05" + images[4:], labels)
        self.refuse("train-images")
        self.write(images, labels[:-1] + b"\x0b")
        self.refuse("train-labels")
        self.write(images, labels[:-1])
        self.refuse("train-labels")
        self.write(gzip.compress(images)[:-9], labels)
        self.refuse("train-images")

    def test_nan_in_the_data(self):
        table = self.folder / "table.csv"
        table.write_text("x1,x2,y\n1,2,0\n3,nan,1\n")
        self.refuse("table.csv", "line 3", data=f"csv:{table}")

    def test_ranks_with_different_data(self):
        rows = [f"{i * 0.1},{i % 7},{i % 2}\n" for i in range(40)]
        for name, lines in (("a", rows), ("content", ["9,9,1\n", *rows[1:]]), ("size", [*rows, "1,1,1\n"])):
            (self.folder / name).mkdir()
            (self.folder / name / "table.csv").write_text("x1,x2,y\n" + "".join(lines))
        command = (EXECUTABLE, "train", "--data", "csv:table.csv", "--network", "mlp:4", "--batch", 8, "--steps", 3, "--out",
                   self.folder / "run")
        for other in ("content", "size"):
            with self.subTest(other=other):
                result = finish(start_ranks("-np", 1, "-wdir", self.folder / "a", *command, ":",
                                            "-np", 1, "-wdir", self.folder / other, *command))
                self.assert_refused(result, 65, "rank 1 on", "csv:table.csv", "40 examples")
                self.assertNotIn("step 1/", result.stderr)
                self.assertEqual(checkpoints(self.folder / "run"), [])

    def in_two_folders(self, first, second, *arguments):
        """A rank in each, with the same command."""
        command = [EXECUTABLE, *arguments]
        return finish(start_ranks("-np", 1, "-wdir", self.folder / first, *command, ":",
                                  "-np", 1, "-wdir", self.folder / second, *command))

    def test_ranks_with_different_checkpoints(self):
        for folder, steps, seed in (("a", 5, 0), ("later", 10, 0), ("other", 5, 1)):
            self.succeed("train", *MOONS, "--steps", steps, "--seed", seed, "--checkpoint-every", 100, "--progress", "none",
                         "--out", self.folder / folder / "run")
        for command in (("evaluate",), ("predict", "--data", "moons"), ("export", "--to", "netcdf", "--draws", 2, "out.nc")):
            options = (*command, "--checkpoint", "run")
            self.assert_refused(self.in_two_folders("a", "other", *options), 65, "rank 1 on", "checkpoint-00000005.h5",
                                "not the same everywhere")
        result = self.in_two_folders("a", "later", "evaluate", "--checkpoint", "run")
        self.assert_refused(result, 65, "checkpoint-00000005.h5", "No such file")

    def test_ranks_that_evaluate_different_data(self):
        rows = [f"{i * 0.1},{i % 7},{i % 2}\n" for i in range(40)]
        for folder, first in (("a", rows[0]), ("b", "9,9,1\n")):
            (self.folder / folder).mkdir()
            (self.folder / folder / "same.csv").write_text("x1,x2,y\n" + "".join(rows))
            (self.folder / folder / "table.csv").write_text("x1,x2,y\n" + first + "".join(rows[1:]))
        run = self.folder / "run"
        self.succeed("train", "--data", f"csv:{self.folder}/a/same.csv", "--network", "mlp:4", "--batch", 8, "--steps", 3,
                     "--progress", "none", "--out", run)
        (self.folder / "a" / "inputs.csv").write_text("x1,x2\n1,2\n")
        (self.folder / "b" / "inputs.csv").write_text("x1,x2\n1,3\n")
        for options in (("evaluate", "--data", "csv:table.csv"), ("evaluate", "--data", "csv:same.csv", "--ood", "csv:table.csv"),
                        ("predict", "--data", "csv:table.csv"), ("predict", "inputs.csv")):
            with self.subTest(options=options):
                self.assert_refused(self.in_two_folders("a", "b", *options, "--checkpoint", run), 65, "rank 1 on",
                                    options[-1].removeprefix("csv:"), "not the same everywhere")

    def test_dataset_changed_under_a_run(self):
        table = self.folder / "table.csv"
        rows = "".join(f"{i * 0.1},{i % 7},{i % 2}\n" for i in range(40))
        table.write_text("x1,x2,y\n" + rows)
        options = ("train", "--data", f"csv:{table}", "--network", "mlp:4", "--batch", "8", "--progress", "none", "--out",
                   self.folder / "run")
        self.succeed(*options, "--steps", 5)
        table.write_text("x1,x2,y\n" + rows.replace("0.1,", "0.2,", 1))
        self.assert_refused(run(*options, "--steps", 9), 2, "other content")
        table.write_text("x1,x2,y\n" + rows + "1,1,1\n")
        self.assert_refused(run(*options, "--steps", 9), 2, "40 examples")

    def test_data_with_more_classes_than_the_network(self):
        for classes in (2, 3):
            (self.folder / f"{classes}.csv").write_text(
                "x1,x2,y\n" + "".join(f"{i * 0.1},{i % 7},{i % classes}\n" for i in range(40)))
        self.succeed("train", "--data", f"csv:{self.folder}/2.csv", "--network", "mlp:4", "--batch", "8", "--steps", 2,
                     "--progress", "none", "--out", self.folder / "run")
        self.assert_refused(run("evaluate", "--checkpoint", self.folder / "run", "--data", f"csv:{self.folder}/3.csv"), 2,
                            "3.csv has 3 classes", "trained on 2")


class Divergence(RunTest):
    def test_a_posterior_that_overflows_is_named_and_not_saved(self):
        result = run("train", *MOONS, "--lr", "1e30", "--optimizer", "sgd", "--lr-schedule", "constant", "--steps", 1,
                     "--progress", "none", "--out", self.folder / "run", ranks=2)
        self.assert_refused(result, 93, "the posterior of fc1.weight is not finite after step 1")
        self.assertEqual(checkpoints(self.folder / "run"), [])

    def test_learning_rate_that_diverges(self):
        for rate in ("1e30", "1e6"):
            with self.subTest(rate=rate):
                result = run("train", *MOONS, "--lr", rate, "--optimizer", "sgd", "--steps", 500, "--progress", "none",
                             "--out", self.folder / f"run-{rate}", ranks=2)
                self.assert_refused(result, 93, "step")
                for file in checkpoints(self.folder / f"run-{rate}"):
                    self.assertEqual(run("inspect", "--verify", file).code, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
