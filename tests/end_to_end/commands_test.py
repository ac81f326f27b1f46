"""The commands of the README, as a user types them."""

import json
import math
import os
import pathlib
import signal
import subprocess
import unittest

import h5py
import numpy as np

from images import png
from support import ENVIRONMENT, EXECUTABLE, MOONS, MPIRUN, RunTest, checkpoints, finish, run, start, start_ranks, wait_until


class Commands(RunTest):
    def test_moons_is_learned_evaluated_and_inspected(self):
        self.succeed("train", "--data", "moons", "--network", "mlp:5,5,tanh", "--likelihood", "bernoulli", "--batch", 500,
                     "--steps", 3000, "--lr", "0.02", "--log-every", 1000, "--out", self.folder, ranks=2)
        file = checkpoints(self.folder)[-1]
        metrics = [self.succeed("evaluate", "--checkpoint", self.folder, "--elbo", "--json", "--predictions",
                                self.folder / f"predictions-{ranks}.h5", ranks=ranks).json for ranks in (1, 2, 4)]
        self.assertEqual(metrics[0], metrics[1])
        self.assertEqual(metrics[0], metrics[2])
        for name in ("accuracy", "nll", "ece", "brier", "entropy", "mutual_information", "samples"):
            self.assertIn(name, metrics[0])
            self.assertIn(name, metrics[0]["mean"])
        self.assertGreater(metrics[0]["accuracy"], 0.94)
        self.assertLess(metrics[0]["nll"], 0.2)
        elbo = metrics[0]["elbo"]
        self.assertAlmostEqual(elbo["elbo"], elbo["expected_log_likelihood"] - elbo["kl"], places=6)
        described = self.succeed("inspect", file, "--json").json
        self.assertEqual(described["attributes"]["step"], 3000)
        self.assertAlmostEqual(sum(tensor["kl"] for tensor in described["posterior"].values()), elbo["kl"], places=6)
        self.succeed("inspect", "--verify", file)
        with h5py.File(self.folder / "predictions-1.h5") as predictions:
            self.assertEqual(predictions["surface/probability"].shape, (100, 100))

    def test_a_predictions_file_that_cannot_be_made_costs_nothing(self):
        self.succeed("train", *MOONS, "--steps", 5, "--progress", "none", "--out", self.folder / "run")
        evaluate = ("evaluate", "--checkpoint", self.folder / "run", "--samples", 2, "--json", "--predictions")
        # Before the checkpoint is read.
        nowhere = ("evaluate", "--checkpoint", self.folder / "none", "--predictions", self.folder / "no/where.h5")
        for ranks in (1, 2):
            self.assert_refused(run(*nowhere, ranks=ranks), 74, "no/where.h5 cannot be created", "create it first")
            self.assert_refused(run(*evaluate, self.folder, ranks=ranks), 74, "is a folder")
        self.assertEqual([file.name for file in self.folder.iterdir()], ["run"])
        disk = self.small_disk("16k")
        (disk / "filler").write_bytes(bytes(16384))
        result = self.run_with_code(74, *evaluate, disk / "out.h5")
        self.assertIn("accuracy", result.json)
        self.assertEqual([file.name for file in disk.iterdir()], ["filler"])

    def test_a_signal_ends_what_has_no_checkpoint_to_write(self):
        self.succeed("train", *MOONS, "--steps", 5, "--progress", "none", "--out", self.folder)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            process = start("evaluate", "--checkpoint", self.folder, "--samples", 1000000)

            def processor_seconds(pid=process.pid):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

            wait_until(lambda: processor_seconds() > 2.0, "evaluation to be under way")
            process.send_signal(number)
            self.assertEqual(finish(process, 30).code, -number)

    def test_plan_tells_what_a_run_takes(self):
        for ranks, options in ((1, ("--network", "resnet20", "--batch", 128)),
                               (1, ("--network", "mlp:1200,1200", "--batch", 128, "--posterior", "point")),
                               (1, ("--network", "mlp:1200,1200", "--batch", 128, "--posterior", "low-rank:4")),
                               (1, ("--network", "mlp:1200,1200", "--batch", 128, "--prior", "laplace:1")),
                               (2, ("--network", "lenet5", "--batch", 128, "--shards", 4, "--noise", "shard")),
                               (2, ("--network", "mlp:1200,1200", "--batch", 128, "--posterior", "ensemble:2"))):
            with self.subTest(options=options):
                steps = ("--steps", 25, "--threads", 1)
                plan = self.succeed("plan", *options, *steps, "--ranks", ranks, "--json").json
                result = self.succeed("train", *options, *steps, "--json", "--progress", "none", "--overwrite", "--out",
                                      self.folder, ranks=ranks).json
                measured = result["peak_memory_bytes"]
                # Graphs of closed-form terms, which are large, are gone when the only checkpoint is copied, after the last step.
                graphs = "low-rank:4" in options or "laplace:1" in options
                self.assertGreater(plan["memory_bytes_of_rank_0"], 0.9 * measured)
                self.assertLess(plan["memory_bytes" if graphs else "memory_bytes_of_rank_0"], 1.1 * measured)
                if "ensemble:2" in options:  # gathered for the checkpoint: all arenas of rank 0's member
                    self.assertLess(plan["bytes_sent_per_step"], 1000)
                    arenas = sum(plan["memory"][kind] for kind in ("posterior", "optimizer")) * 6 / 7
                    self.assertLess(abs(result["bytes_sent"] - arenas / 2), 0.01 * arenas)
                else:
                    sent = result["bytes_sent"] / 25  # padding and a few scalars apart
                    self.assertLessEqual(abs(plan["bytes_sent_per_step"] - sent), 0.02 * sent)
                size = os.path.getsize(checkpoints(self.folder)[-1])
                self.assertLess(abs(plan["checkpoint_bytes"] - size), 0.05 * size)
                self.assertEqual(plan["steps"], 25)
                self.assertEqual((plan["data"], plan["input_shape"]), ("fashion-mnist", [1, 28, 28]))

    def test_plan_counts_decoded_images_as_they_are_kept(self):
        """Bytes until they are tensors; a ring of a loader's batches, and not more."""
        pack = self.folder / "pack.h5"
        self.succeed("pack", "fashion-mnist", pack)
        for batch in (512, 2048):
            with self.subTest(batch=batch):
                options = ("--data", f"pack:{pack}", "--image-size", "64", "--network", "mlp:16", "--batch", batch, "--steps", 12,
                           "--threads", 1, "--json")
                plan = self.succeed("plan", *options).json
                result = self.succeed("train", *options, "--progress", "none", "--overwrite", "--out", self.folder / "run").json
                self.assertEqual(plan["input_shape"], [1, 64, 64])
                self.assertLess(abs(plan["memory_bytes_of_rank_0"] - result["peak_memory_bytes"]),
                                0.1 * result["peak_memory_bytes"])
                self.assertEqual(plan["memory"]["batches"], 5 * batch * (64 * 64 + 8))
                self.assertEqual(plan["device_memory_bytes"], 0)

    def test_learning_rates_grow_with_the_batch(self):
        train = ("train", *MOONS, "--lr", "0.01", "--lr-schedule", "constant", "--steps", 6, "--progress", "none", "--out",
                 self.folder)

        def rates(*options):
            result = self.succeed(*train, "--overwrite", *options)
            with h5py.File(checkpoints(self.folder)[-1]) as file:
                return result, file["history/learning_rate"][()].tolist()

        batch = int(MOONS[MOONS.index("--batch") + 1])
        plain, rate = rates()
        self.assertEqual(rate, [0.01] * 6)
        self.assertNotIn(" by linear", plain.stderr)
        for rule, factor in ((f"linear:{4 * batch}", 0.25), (f"linear:{batch // 4}", 4.0), (f"sqrt:{batch // 4}", 2.0)):
            with self.subTest(rule=rule):
                result, scaled = rates("--lr-scaling", rule)
                self.assertEqual(scaled, [0.01 * factor] * 6)
                self.assertIn(f"lr 0.01 x {factor:g} by {rule}", result.stderr)
        _, warmed = rates("--lr-warmup", "0.5")
        _, both = rates("--lr-warmup", "0.5", "--lr-scaling", f"linear:{batch // 4}")
        self.assertLess(warmed[0], warmed[1])
        for one, other in zip(warmed, both):
            self.assertAlmostEqual(other, 4 * one, delta=1e-12)
        self.assert_refused(run(*train, "--lr-scaling", "none"), 2, "--lr-scaling", "linear")
        for wrong in ("linear", "linear:0", "sqrt:x", "none:3", "liner:256"):
            self.assert_refused(run(*train, "--overwrite", "--lr-scaling", wrong), 2, "lr-scaling")

    def test_corrupted_images_are_harder(self):
        self.succeed("train", "--network", "lenet5", "--batch", 128, "--steps", 120, "--progress", "none", "--out", self.folder)
        evaluate = ("evaluate", "--checkpoint", self.folder, "--samples", 2)
        corrupt = (*evaluate, "--corrupt", "contrast:5,noise:1")
        metrics = [self.succeed(*corrupt, "--json", ranks=ranks).json for ranks in (1, 2)]
        self.assertEqual(metrics[0], metrics[1])
        contrast, noise = metrics[0]["corrupted"]
        self.assertEqual((contrast["corruption"], contrast["severity"]), ("contrast", 5))
        self.assertEqual((noise["corruption"], noise["severity"]), ("noise", 1))
        self.assertLess(contrast["accuracy"], metrics[0]["accuracy"] - 0.05)
        self.assertLess(abs(noise["accuracy"] - metrics[0]["accuracy"]), 0.05)
        self.assertAlmostEqual(metrics[0]["corrupted_mean"]["accuracy"], (contrast["accuracy"] + noise["accuracy"]) / 2)
        table = self.succeed(*corrupt).stdout
        lines = [line.split() for line in table[table.index("corrupted "):].splitlines()]
        self.assertEqual(lines[0][:4], ["corrupted", "severity", "accuracy", "nll"])
        self.assertEqual([line[0] for line in lines[1:]], ["none", "contrast", "noise", "mean"])
        for line, entry in zip(lines[2:], (contrast, noise)):
            self.assertEqual(line[1:4], [str(entry["severity"]), f"{entry['accuracy']:.4f}", f"{entry['nll']:.4f}"])
        self.assert_refused(run(*evaluate, "--corrupt", "contrasts"), 2, "contrast")

    def test_corrupted_images_are_not_of_the_pruned_posterior(self):
        # Scales far above the weights: pruning leaves nothing, so the entropy over ten classes is the largest there is.
        self.succeed("train", "--network", "mlp:8", "--posterior", "sparse", "--initial-scale", "0.5", "--lr", "0", "--steps", 1,
                     "--progress", "none", "--out", self.folder)
        metrics = self.succeed("evaluate", "--checkpoint", self.folder, "--samples", 2, "--corrupt", "noise:1", "--json").json
        self.assertAlmostEqual(metrics["pruned"]["entropy"], math.log(10), delta=1e-3)
        self.assertLess(metrics["entropy"], 1.5)
        self.assertLess(abs(metrics["corrupted"][0]["entropy"] - metrics["entropy"]), 0.2)

    def test_checkpoint_as_h5py_sees_it(self):
        self.succeed("train", *MOONS, "--steps", 30, "--progress", "none", "--out", self.folder, ranks=2)
        with h5py.File(checkpoints(self.folder)[-1]) as file:
            for name in ("format", "format_version", "step", "epoch", "seed", "shards", "world_size", "dataset_size",
                         "complete"):
                self.assertIn(name, file.attrs)
            self.assertEqual((file.attrs["step"], file.attrs["shards"], file.attrs["world_size"]), (30, 2, 2))
            self.assertIn("network = mlp:20,20", file["config"].asstr()[()])
            for name in ("step", "epoch", "elbo", "objective", "expected_log_likelihood", "kl", "learning_rate",
                         "gradient_norm", "seconds"):
                self.assertEqual(file["history"][name].shape, (30,))
                self.assertEqual(file["history"][name].dtype, "float64")
            history = {name: file["history"][name][()] for name in ("elbo", "expected_log_likelihood", "kl", "objective")}
            for elbo, likelihood, kl, objective in zip(*history.values()):
                self.assertTrue(math.isclose(elbo, likelihood - kl, rel_tol=1e-9))
                self.assertTrue(math.isclose(objective, -elbo, rel_tol=1e-9))
            tensor = file["posterior/fc1.weight"]
            self.assertEqual(tensor["mean"].shape, (20, 2))
            scale, raw = tensor["scale"][()], tensor["raw_scale"][()]
            for value, raw_value in zip(scale.flat, raw.flat):
                self.assertTrue(math.isclose(value, math.log1p(math.exp(raw_value)), rel_tol=1e-5))
            self.assertEqual(file["optimizer/mean_first_moment/fc2.weight"].shape, (20, 20))

    def test_point_has_no_bound(self):
        result = self.succeed("train", *MOONS, "--posterior", "point", "--steps", 20, "--progress", "none", "--json",
                              "--out", self.folder)
        self.assertIsNone(result.json["elbo"])
        with h5py.File(checkpoints(self.folder)[-1]) as file:
            self.assertTrue(all(math.isnan(value) for value in file["history/elbo"][()]))
            self.assertTrue(all(math.isfinite(value) for value in file["history/objective"][()]))
            self.assertIn("none", file.attrs["bound"])

    def test_out_of_distribution(self):
        data = os.environ.get("CREDENCE_SHARED_DATA", "")
        fashion = "/usr/share/datasets/fashion-mnist"
        other = f"mnist:{data}/mnist" if data and pathlib.Path(data, "mnist").exists() else f"fashion-mnist:{fashion}"
        self.succeed("train", "--network", "mlp:16", "--steps", 30, "--batch", 64, "--progress", "none", "--out",
                     self.folder / "run", ranks=2)
        metrics = self.succeed("evaluate", "--checkpoint", self.folder / "run", "--data", "fashion-mnist", "--ood", other,
                               "--samples", 2, "--json", ranks=2).json
        if other.startswith("mnist"):
            self.assertTrue(0.0 <= metrics["ood_auroc"] <= 1.0)
        else:
            self.assertAlmostEqual(metrics["ood_auroc"], 0.5, places=12)

    def test_doctor_and_help(self):
        report = self.succeed("doctor", "--json", ranks=2).json
        self.assertTrue(all(finding["good"] for finding in report.values()), report)
        self.assertIn("train", self.succeed("--help").stdout)
        self.assertNotIn("ranks", report["kernels"])
        alone = ("-np", "1", "env", "OMP_NUM_THREADS=1", EXECUTABLE, "doctor")
        other = ("-np", "1", "env", "OMP_NUM_THREADS=2", EXECUTABLE, "doctor")
        differing = start_ranks(*alone, ":", *other)
        self.assertRegex(finish(differing).stdout, r"host +ok .* 1 threads for this rank\n +ok +on rank 1: .* 2 threads for this rank\n")
        for command in ("train", "evaluate", "predict", "export", "inspect", "doctor"):
            self.assertIn("--help", self.succeed(command, "--help").stdout)

    def test_json_is_the_last_line_of_stdout(self):
        result = self.succeed("train", *MOONS, "--steps", 5, "--json", "--out", self.folder, ranks=2)
        self.assertEqual(len(result.stdout.strip().splitlines()), 1)
        self.assertEqual(json.loads(result.stdout)["outcome"], "finished")

    def test_help_names_every_kind(self):
        help_of = {line.split()[0]: line for line in self.succeed("train", "--help").stdout.splitlines() if "--" in line}
        for option in ("--data", "--network", "--posterior", "--prior", "--likelihood", "--optimizer", "--estimator"):
            options = {"--data": "moons", "--network": "linear", option: "no-such-kind"}
            refused = run("train", *[word for pair in options.items() for word in pair], "--out", self.folder / "run")
            self.assertRegex(refused.stderr, r"Known: [a-z]")
            for kind in refused.stderr.split("Known: ")[1].split(".")[0].split(", "):
                if (option, kind) == ("--posterior", "categorical"):
                    continue  # of the depth of adaptive-depth, which has no other
                with self.subTest(option=option, kind=kind):
                    self.assertIn(kind, help_of[option])

    def test_a_terminal_leaves_the_log_its_lines(self):
        result = self.succeed("train", *MOONS, "--steps", 40, "--log-every", 10, "--out", self.folder,
                              environment={"CREDENCE_TERMINAL_COLUMNS": "60"})
        self.assertIn("\x1b[K", result.stderr)
        self.assertNotIn("img/s", result.stderr)  # cut off by the terminal's width
        lines = [line for line in (self.folder / "log.txt").read_text().splitlines() if "img/s" in line]
        self.assertEqual([line.split("step ")[1].split(" ")[0] for line in lines], ["10/40", "20/40", "30/40", "40/40"])

    def test_what_cannot_be_printed_is_an_error(self):
        self.succeed("train", *MOONS, "--steps", 3, "--progress", "none", "--out", self.folder / "run")
        evaluate = ("evaluate", "--checkpoint", self.folder / "run", "--samples", 2, "--json")
        inspect = ("inspect", self.folder / "run")  # more than a buffer's
        for command, ranks in ((evaluate, 1), (evaluate, 2), (inspect, 1), (("inspect", "--json", self.folder / "run"), 1),
                               (("--help",), 1)):
            with self.subTest(command=command[0], ranks=ranks), open("/dev/full", "w") as full:
                # mpirun reads what ranks print, so there the rank itself is given what is full.
                words = [EXECUTABLE, *map(str, command)]
                if ranks > 1:
                    words = [MPIRUN, "--oversubscribe", "-np", str(ranks), "sh", "-c", 'exec "$0" "$@" > /dev/full', *words]
                process = subprocess.Popen(words, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
                self.assert_refused(finish(process), 74, "could not be written", "No space left")

    def test_paths_need_not_be_utf_8(self):
        out = self.folder / os.fsdecode(b"f\xe4sh")
        options = ("train", *MOONS, "--steps", 3, "--progress", "none", "--json", "--out", out)
        for _ in range(2):  # the second finds the run finished
            self.assertIn("f\ufffdsh", self.succeed(*options, ranks=2).json["checkpoint"])
        self.assertEqual(json.loads((out / "status.json").read_text())["status"], "finished")
        self.assertIn("f\ufffdsh", self.succeed("inspect", "--verify", "--json", out).json["directory"])

        images = self.folder / "images"
        for number in range(8):
            file = images / f"class-{number % 2}" / (os.fsdecode(b"caf\xe9.png") if number == 5 else f"{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"broken" if number == 5 else png(np.full((8, 8, 3), 20 * number, np.uint8)))
        refused = run("train", "--data", f"images:{images}", "--network", "mlp:4", "--batch", 8, "--steps", 2, "--out",
                      self.folder / "run", ranks=2)
        self.assert_refused(refused, 65, "caf\ufffd.png")
        status = json.loads((self.folder / "run" / "status.json").read_text())
        self.assertEqual((status["status"], status["exit_code"]), ("failed", 65))
        self.assertIn("caf\ufffd.png", status["message"])

    def test_the_first_step_has_its_line(self):
        options = ("train", *MOONS, "--log-every", 1, "--out", self.folder)
        lines = [self.run_with_code(code, *options, *more).stderr.splitlines()
                 for code, more in ((75, ("--steps", 3, "--stop-after", 2)), (0, ()))]
        for text, steps in zip(lines, (["1/3", "2/3"], ["3/3"])):
            told = [line for line in text if "img/s" in line]
            self.assertEqual([line.split("step ")[1].split(" ")[0] for line in told], steps)
            for line in told:
                self.assertRegex(line, r"elbo -\d+\.\d*[1-9]\d* .* \d+ img/s")
                self.assertLess(float(line.split(" img/s")[0].split()[-1]), 1e8)

    def test_config_file_takes_a_command_s_own_names(self):
        config = self.folder / "run.ini"
        config.write_text(f"data = moons\nnetwork = mlp:4\nsteps = 5\nout = {self.folder}/run\noverwrite = true\njson = true\n")
        for _ in range(2):  # not finished at once: started anew
            self.assertIn("bytes_sent", self.succeed("train", "--config", config).json)
        other = self.succeed("train", "--config", config, "--out", self.folder / "other").json
        self.assertIn("other", other["checkpoint"])
        config.write_text("overwrite = perhaps\n")
        self.assert_refused(run("train", "--config", config), 2, "line 1", "overwrite", "perhaps")
        config.write_text(f"checkpoint = {self.folder}/run\nsamples = 2\njson = true\n")
        self.assertEqual(self.succeed("evaluate", "--config", config).json["samples"], 2)
        self.assertEqual(self.succeed("evaluate", "--config", config, "--samples", 3).json["samples"], 3)
        config.write_text("sampels = 2\n")
        self.assert_refused(run("evaluate", "--config", config), 2, "line 1", "sampels", "did you mean 'samples'")

    def test_config_ini_starts_the_same_run(self):
        self.succeed("train", *MOONS, "--steps", 10, "--seed", 4, "--out", self.folder / "a", ranks=2)
        self.succeed("train", "--config", self.folder / "a" / "config.ini", "--out", self.folder / "b")
        self.assert_same_bits(checkpoints(self.folder / "a")[-1], checkpoints(self.folder / "b")[-1])

    def test_config_ini_of_posteriors_with_a_prior_of_their_own_starts_the_same_run(self):
        for posterior in ("sparse", "gaussian-dropout:0.1"):
            with self.subTest(posterior=posterior):
                first, second = self.folder / posterior / "first", self.folder / posterior / "second"
                options = (*MOONS, "--posterior", posterior, "--steps", 4, "--progress", "none", "--out", first)
                self.run_with_code(75, "train", *options, "--stop-after", 2)
                self.succeed("train", *options)  # writes config.ini again
                self.succeed("train", "--config", first / "config.ini", "--out", second)
                self.assert_same_bits(checkpoints(first)[-1], checkpoints(second)[-1])

    def test_the_command_line_wins_over_config_ini_by_either_name_of_length(self):
        (self.folder / "long.ini").write_text("epochs = 1000\n")
        result = self.succeed("train", *MOONS, "--config", self.folder / "long.ini", "--steps", 4, "--json", "--out",
                              self.folder / "run")
        self.assertEqual(result.json["step"], 4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
