"""Image folders and packed files: the same run from either, on any number of ranks; packs that survive kills; bad files."""

import os
import pathlib
import shutil
import signal
import subprocess
import unittest
import zipfile

import h5py
import numpy as np

from experiments_test import short
from images import png
from support import EXECUTABLE, RunTest, checkpoints, children, contents, finish, run, start, start_ranks, wait_until

REFERENCES = pathlib.Path(__file__).resolve().parents[1] / "references"
SMALL = ["train", "--network", "resnet20", "--image-size", "32", "--batch", "8", "--shards", "2", "--progress", "none"]
TRAIN = [*SMALL, "--augment", "resized-crop,flip,jitter:0.2", "--steps", 2]


class Images(RunTest):
    def make(self, train=8, test=4, size=40, heights=5):
        """Folders of noise whose colour tells the class, under names that tell nothing, of so many heights from `size` on."""
        generator = np.random.default_rng(0)
        for split, count in (("train", train), ("test", test)):
            for label, name in enumerate(("ant", "bee")):
                folder = self.folder / "images" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    pixels = generator.integers(0, 120, (size + i % heights, size, 3), dtype=np.uint8)
                    pixels[:, :, label] += 100
                    (folder / f"{i:05}.JPEG").write_bytes(png(pixels))
        return self.folder / "images"

    def pack(self, source, *arguments, file="packed.h5", **options):
        return self.succeed("pack", f"images:{source}", self.folder / file, *arguments, **options)

    def as_jpegs(self, source):
        """The same images as JPEG files, which a pack makes of them."""
        self.pack(source, "--encoding", "jpeg", file="jpegs.h5")
        folder = self.folder / "jpegs"
        with h5py.File(self.folder / "jpegs.h5") as file:
            data = bytes(file["bytes"][:])
            for i, path in enumerate(bytes(file["paths"][()]).split(b"\0")[:-1]):
                name = folder / ("train", "test")[file["split"][i]] / path.decode()
                name.parent.mkdir(parents=True, exist_ok=True)
                begin = file["offset"][i]
                name.write_bytes(data[begin:begin + file["length"][i]])
        return folder

    def train(self, data, out, ranks=1, *more, command=TRAIN):
        self.succeed(*command, "--data", data, "--out", self.folder / out, *more, ranks=ranks)
        return checkpoints(self.folder / out)[-1]

    def assert_same_pack(self, one, other):
        with h5py.File(one) as a, h5py.File(other) as b:
            self.assertEqual(dict(a.attrs), dict(b.attrs))
            self.assertEqual(sorted(a), sorted(b))
            for name in a:
                self.assertTrue(np.array_equal(a[name][()], b[name][()]), name)

    def assert_resumes_with_the_same_bits(self, data, command, *first_start):
        """A run in one go, and one that is stopped and goes on, on another number of ranks."""
        straight = self.train(data, "straight", 1, *first_start, command=command)
        for first, second in ((1, 2), (2, 1)):
            out = self.folder / f"resumed{first}"
            stopped = run(*command, "--data", data, "--out", out, *first_start, "--stop-after", 3, ranks=first)
            self.assertEqual(stopped.code, 75, stopped)
            self.assert_same_bits(straight, self.train(data, out, second, "--loader-threads", "2", command=command))

    def test_the_same_bits_from_folders_and_packs_on_any_ranks(self):
        source = self.make()
        packed = self.pack(source, "--json", ranks=2)
        self.assertEqual(packed.json["images"], 24)
        plain = self.train(f"images:{source}", "plain")
        file = f"pack:{self.folder / 'packed.h5'}"
        for out, data, ranks, more in (("two", file, 2, ()), ("one", file, 1, ("--loader-threads", "3"))):
            other = self.train(data, out, ranks, *more)
            a, b = contents(plain), contents(other)
            different = [name for name in a if a[name].tobytes() != b[name].tobytes()]
            self.assertEqual(different, [], out)
        jpegs = f"images:{self.as_jpegs(source)}"
        command = [*SMALL, "--augment", "resized-crop:0.05,flip,jitter:0.2", "--steps", 4]
        self.assert_resumes_with_the_same_bits(jpegs, command)
        result = self.succeed("evaluate", "--checkpoint", self.folder / "two", "--samples", 2, "--json", "--ood", f"images:{source}")
        self.assertEqual(result.json["split"] if "split" in result.json else "test", "test")
        self.assertGreater(result.json["accuracy"], 0.0)

    def test_a_pack_as_h5py_sees_it(self):
        source = self.make()
        self.pack(source)
        with h5py.File(self.folder / "packed.h5") as file:
            self.assertEqual(file.attrs["format"], "credence-pack")
            self.assertEqual(bytes(file["class_names"][()]), b"ant\0bee\0")
            paths = bytes(file["paths"][()]).split(b"\0")[:-1]
            self.assertEqual(len(paths), 24)
            for i, (split, path) in enumerate(zip(file["split"][()], paths)):
                name = source / ("train", "test")[split] / path.decode()
                begin = file["offset"][i]
                self.assertEqual(bytes(file["bytes"][begin:begin + file["length"][i]]), name.read_bytes())
                self.assertEqual(file["label"][i], ("ant", "bee").index(name.parent.name))
        self.pack(source, "--encoding", "raw", "--short-side", 10, file="raw.h5")
        with h5py.File(self.folder / "raw.h5") as file:
            self.assertTrue(np.all(np.minimum(file["height"][()], file["width"][()]) == 10))
            self.assertTrue(np.all(file["height"][()] * file["width"][()] * 3 == file["length"][()]))

    def test_a_killed_pack_goes_on(self):
        source = self.make(train=300, test=2, size=224)
        parts = self.folder / "packed.h5.parts"
        process = start("pack", f"images:{source}", self.folder / "packed.h5", ranks=2)
        journals = lambda: sum(f.stat().st_size for f in parts.glob("*.journal")) if parts.exists() else 0
        wait_until(lambda: journals() > 80 * 40 or process.poll() is not None, "some records of a pack")
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
        self.assertFalse((self.folder / "packed.h5").exists(), "killed too late: the test needs more images")
        refused = run("pack", f"images:{source}", self.folder / "packed.h5", "--encoding", "raw")
        self.assert_refused(refused, 2, "another --encoding")
        (self.folder / "others" / "ant").mkdir(parents=True)
        shutil.copy(source / "train" / "ant" / "00000.JPEG", self.folder / "others" / "ant" / "another.JPEG")
        refused = run("pack", f"images:{self.folder / 'others'}", self.folder / "packed.h5")
        self.assert_refused(refused, 2, "begun from other data")
        result = self.pack(source, "--json")
        self.assertGreater(result.json["resumed"], 30)
        self.assertEqual(result.json["images"], 604)
        self.assertFalse(parts.exists())
        self.pack(source, file="whole.h5")
        self.assert_same_pack(self.folder / "packed.h5", self.folder / "whole.h5")

    def test_a_finished_pack_is_left_alone(self):
        source = self.make()
        self.pack(source)
        file, parts = self.folder / "packed.h5", self.folder / "packed.h5.parts"
        made = file.stat()
        for ranks in (1, 2):  # the second time as if killed between renaming the file and removing the parts
            result = self.pack(source, "--json", ranks=ranks)
            self.assertEqual((result.json["images"], result.json["resumed"]), (24, 24))
            self.assertIn("is finished", result.stderr)
            self.assertEqual((file.stat().st_ino, file.stat().st_mtime_ns), (made.st_ino, made.st_mtime_ns))
            self.assertFalse(parts.exists())
            parts.mkdir()
            (parts / "part-0000.bytes").write_bytes(b"left")
        (parts / "another").write_bytes(b"of somebody who has come to this folder since")
        self.pack(source)
        self.assertEqual([path.name for path in parts.iterdir()], ["another"])
        self.assert_refused(run("pack", f"images:{source}", file, "--encoding", "raw"), 2, "--overwrite")
        (source / "test" / "bee" / "00000.JPEG").unlink()
        self.assert_refused(run("pack", f"images:{source}", file), 2, "--overwrite")
        result = self.pack(source, "--overwrite", "--json")
        self.assertEqual((result.json["images"], result.json["resumed"]), (23, 0))

    def test_mended_files_leave_the_others_packed(self):
        source = self.make()
        files = [source / "train" / name for name in ("ant/00000.JPEG", "ant/00003.JPEG", "bee/00007.JPEG")]  # 0, 3 and 15 of 24
        good = [file.read_bytes() for file in files]
        files[1].write_bytes(bytes(len(good[1])))
        files[2].write_bytes(good[2][:700])
        packing = ("pack", f"images:{source}", self.folder / "packed.h5", "--loader-threads", 1, "--max-bad-records", 1, "--json")
        self.assert_refused(run(*packing), 65, "00007.JPEG")
        # What is packed is not read again: no bad record is allowed now, and this one would be.
        files[0].write_bytes(bytes(len(good[0])))
        files[1].write_bytes(good[1])
        files[2].write_bytes(good[2])
        result = self.succeed(*packing[:5], "--json")
        self.assertEqual((result.json["images"], result.json["bad"], result.json["resumed"]), (24, 0, 14))
        files[0].write_bytes(good[0])
        self.pack(source, file="fresh.h5")
        self.assert_same_pack(self.folder / "packed.h5", self.folder / "fresh.h5")

    def test_a_file_taken_out_leaves_the_others_packed(self):
        source = self.make()
        (source / "test" / "ant" / "00002.JPEG").write_bytes(b"a text")  # record 18 of 24
        packing = ("pack", f"images:{source}", self.folder / "packed.h5", "--loader-threads", 1, "--json")
        self.assert_refused(run(*packing), 65, "00002.JPEG")
        (source / "test" / "ant" / "00002.JPEG").unlink()
        (source / "train" / "ant" / "00000.JPEG").unlink()
        result = self.succeed(*packing)
        self.assertEqual((result.json["images"], result.json["resumed"]), (22, 17))
        self.pack(source, file="fresh.h5")
        self.assert_same_pack(self.folder / "packed.h5", self.folder / "fresh.h5")

    def test_gray_images_as_jpegs(self):
        losses = []
        for encoding in ("keep", "jpeg"):
            pack = self.folder / f"{encoding}.h5"
            self.succeed("pack", "fashion-mnist", pack, "--encoding", encoding)
            self.succeed("train", "--data", f"pack:{pack}", "--network", "lenet5", "--steps", 3, "--out", self.folder / encoding,
                         "--progress", "none")
            losses.append(contents(checkpoints(self.folder / encoding)[-1])["history/expected_log_likelihood"] / 60000)
        np.testing.assert_allclose(*losses, atol=0.02)  # quality 95 changes little
        self.assertFalse(np.array_equal(*losses))

    def test_a_full_disk_loses_nothing(self):
        source = self.make(train=40, test=2, size=100)  # 84 images, 2.6 MB
        disk = self.small_disk("1500k")
        packing = ("pack", f"images:{source}", disk / "packed.h5", "--json")
        self.assert_refused(run(*packing, ranks=2), 74, "packed.h5.parts", "No space left")
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)  # for the parts, not for the file beside them
        self.assert_refused(run(*packing, ranks=2), 74, "packed.h5", "No space left")
        self.assertEqual([file.name for file in disk.iterdir()], ["packed.h5.parts"])
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        result = self.succeed(*packing)
        self.assertEqual((result.json["images"], result.json["resumed"]), (84, 84))
        self.pack(source, file="whole.h5")
        self.assert_same_pack(disk / "packed.h5", self.folder / "whole.h5")

    def test_a_network_of_torchvision_trains_on_a_pack(self):
        self.pack(self.make(train=40, size=32, heights=1))
        data, network = f"pack:{self.folder / 'packed.h5'}", self.folder / "network.pt"
        shutil.copy(REFERENCES / "networks/shufflenet.pt", network)
        options = ("train", "--data", data, "--network", f"torchscript:{network}", "--batch", 16, "--steps", 40, "--shards", 2,
                   "--progress", "none", "--out")
        self.succeed(*options, self.folder / "two", ranks=2)
        self.succeed(*options, self.folder / "one")
        self.assert_same_bits(checkpoints(self.folder / "two")[-1], checkpoints(self.folder / "one")[-1])
        result = self.succeed("evaluate", "--checkpoint", self.folder / "two", "--samples", 2, "--split", "train", "--json")
        self.assertGreater(result.json["accuracy"], 0.9)
        with zipfile.ZipFile(network, "a") as archive:
            archive.comment = b"of another day"
        self.assert_refused(run("train", "--out", self.folder / "two", "--steps", 42, ranks=2), 2, "file of other content")

    def test_ranks_with_different_networks(self):
        self.pack(self.make(size=32, heights=1))
        for rank in ("a", "b"):
            (self.folder / rank).mkdir()
            shutil.copy(REFERENCES / "networks/shufflenet.pt", self.folder / rank / "network.pt")
        with zipfile.ZipFile(self.folder / "b/network.pt", "a") as archive:
            archive.comment = b"of another day"
        command = (EXECUTABLE, "train", "--data", f"pack:{self.folder / 'packed.h5'}", "--network", "torchscript:network.pt",
                   "--batch", 4, "--steps", 1, "--progress", "none", "--out", self.folder / "run")
        result = finish(start_ranks("-np", 1, "-wdir", self.folder / "a", *command, ":",
                                    "-np", 1, "-wdir", self.folder / "b", *command))
        self.assert_refused(result, 65, "rank 1 on", "torchscript:network.pt", "not the same everywhere")
        self.assertEqual(checkpoints(self.folder / "run"), [])

    def test_the_experiment_on_image_folders(self):
        source = self.make(train=600, test=40, size=32, heights=1)
        values = short("cifar10", "--images", source, "--ood", f"images:{source}", "--methods", "mean-field", "--norms", "batch")
        row = values["batch mean-field"]
        self.assertEqual(values["pack"]["images"], 1280)
        self.assertGreater(row["accuracy"], 0.9)  # the colour tells; by chance 0.5, five standard errors up to 0.78
        self.assertLess(row["aurc"], 0.1)
        self.assertAlmostEqual(row["ood_auroc"], 0.5, delta=1e-9)  # the same images
        self.assertLess(row["waited"], 0.02)

    def test_damaged_images_are_left_out_by_all_ranks_and_resumes(self):
        folder = self.as_jpegs(self.make(train=12, size=64))
        damaged = ("train/ant/00002.JPEG", "train/bee/00000.JPEG", "train/bee/00011.JPEG", "test/ant/00001.JPEG")
        for name in damaged:  # the last rows are missing: most small crops can be decoded
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[:len(whole) * 4 // 5] + b"\xff\xd9")
        data = f"images:{folder}"
        self.refuse(65, "more images are bad than the 2", *damaged[:3], data=data, more=("--max-bad-records", "2"))
        command = [*SMALL, "--augment", "resized-crop:0.01,flip", "--steps", 6]
        self.assert_resumes_with_the_same_bits(data, command, "--max-bad-records", "3")  # the first start records it
        # Without the damaged files from the start, the data are the same.
        evaluate = ("evaluate", "--checkpoint", self.folder / "straight", "--samples", 2, "--json", "--data", data)
        self.assert_refused(run(*evaluate, "--max-bad-records", 0, ranks=2), 65, damaged[3])
        metrics = [self.succeed(*evaluate, ranks=ranks).json for ranks in (1, 2)]
        predict = ("predict", *evaluate[1:])
        self.assert_refused(run(*predict, "--max-bad-records", 0), 65, damaged[3])
        self.assert_refused(run(*predict, "--examples", "7"), 2, "--examples")
        predictions = [self.succeed(*predict, ranks=ranks).json["examples"] for ranks in (1, 2)]
        export = ("export", "--checkpoint", self.folder / "straight", "--to", "netcdf", "--draws", 2, "--data", data)
        self.assert_refused(run(*export, self.folder / "draws.nc", "--max-bad-records", 0), 65, damaged[3])
        self.succeed(*export, self.folder / "draws.nc")
        with h5py.File(self.folder / "draws.nc") as file:
            self.assertEqual(file["observed_data/y"][()].tolist(), [0] * 3 + [1] * 4)
        for name in damaged:
            (folder / name).unlink()
        metrics.append(self.succeed(*evaluate, "--max-bad-records", 0).json)
        self.assertEqual([(m["examples"], m.pop("bad_records")) for m in metrics], [(7, 1), (7, 1), (7, 0)])
        self.assertEqual(metrics[0], metrics[2])
        predictions.append(self.succeed(*predict).json["examples"])
        self.assertEqual([len(examples) for examples in predictions], [7] * 3)
        self.assertEqual(predictions[0], predictions[2])

    def refuse(self, code, *words, data, more=()):
        for ranks in (1, 2):
            out = self.folder / f"refused{ranks}"
            shutil.rmtree(out, ignore_errors=True)
            self.assert_refused(run(*TRAIN, "--data", data, "--out", out, *more, ranks=ranks), code, *words)

    def test_bad_input(self):
        source = self.make()
        victim = source / "train" / "ant" / "00003.JPEG"
        whole = victim.read_bytes()
        for content, word in ((whole[:700], "truncated or corrupt"), (b"", "empty"), (b"a text\n", "neither JPEG nor PNG")):
            victim.write_bytes(content)
            self.refuse(65, "00003.JPEG", word, "--max-bad-records", data=f"images:{source}")
            self.assert_refused(run("pack", f"images:{source}", self.folder / "bad.h5", "--overwrite", ranks=2), 65, "00003.JPEG", word)
        victim.unlink()
        victim.symlink_to("nowhere")
        self.refuse(65, "00003.JPEG", "No such file", "--max-bad-records", data=f"images:{source}")
        refused = run("pack", f"images:{source}", self.folder / "bad.h5", "--overwrite")
        self.assertEqual(refused.stderr.count("00003.JPEG"), 1, refused)
        self.train(f"images:{source}", "passed", 1, "--max-bad-records", "1")
        result = self.pack(source, "--max-bad-records", 1, "--json", file="fewer.h5")
        self.assertEqual((result.json["images"], result.json["bad"]), (23, 1))
        victim.unlink()
        victim.write_bytes(whole)
        shutil.rmtree(source / "test" / "bee")
        run_directory = self.folder / "run"
        self.train(f"images:{source}", "run")
        self.assert_refused(run("evaluate", "--checkpoint", run_directory, "--samples", 1), 65, "'bee'")
        empty = self.folder / "empty"
        empty.mkdir()
        self.refuse(65, "no class folders", data=f"images:{empty}")
        self.refuse(2, "--image-size", data="moons")

    def test_a_damaged_pack(self):
        source = self.make()
        self.pack(source)
        file = self.folder / "packed.h5"
        good = bytearray(file.read_bytes())
        with h5py.File(file) as opened:
            at = file.read_bytes().index(bytes(opened["bytes"][:64])) + int(opened["offset"][5]) + 40
        good[at] ^= 4
        file.write_bytes(good)
        self.refuse(65, "packed.h5, record 5", "digest", data=f"pack:{file}")
        good[at] ^= 4
        file.write_bytes(good[:-100])
        self.refuse(65, "packed.h5", "truncated", data=f"pack:{file}")
        self.assert_refused(run("pack", f"images:{source}", file), 2, "--overwrite")


if __name__ == "__main__":
    unittest.main()
