"""Each rule of check_includes.py, broken once in a tree made for it."""

import pathlib
import tempfile
import unittest

import check_includes


class CheckIncludes(unittest.TestCase):
    def messages(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in files.items():
                path = root / "framework" / "credence" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check_includes.violations(root)[1]

    def refused(self, name, text, reason):
        messages = self.messages({name: text})
        self.assertEqual(len(messages), 1, messages)
        self.assertIn(reason, messages[0])

    def test_folders_above_may_be_included(self):
        self.assertEqual(self.messages({
            "posteriors/a.h": '#pragma once\n#include "credence/base/errors.h"\n#include "credence/posteriors/b.h"\n',
            "training/a.cpp": '#include "credence/prediction/a.h"\n',
            "networks/a.cpp": '#include <torch/torch.h>\n',
            "communication/mpi_session.h": '#pragma once\n#include <mpi.h>\n',
            "communication/session.cpp": '#include <mpi.h>\n'}), [])

    def test_folders_below_may_not(self):
        self.refused("base/a.cpp", '\n#include "credence/kernels/noise.h"\n',
                     "a.cpp:2: base must not include kernels")
        self.refused("posteriors/a.cu", '# include <credence/optimizers/adam.h>\n', "posteriors must not include")

    def test_torch_stays_out_of_the_foundation(self):
        self.refused("checkpoint/a.cpp", "#include <torch/torch.h>\n", "builds without LibTorch")
        self.refused("data/a.cpp", "#include <ATen/ATen.h>\n", "builds without LibTorch")

    def test_backend_headers(self):
        self.refused("communication/communicator.h", "#pragma once\n#include <mpi.h>\n", "is a header")
        self.refused("communication/mpi.h", "#pragma once\n#include <nccl.h>\n", "is a header")
        self.refused("checkpoint/checkpoint.h", "#pragma once\n#include <hdf5.h>\n", "is a header")

    def test_others(self):
        self.refused("base/a.cpp", "#include <boost/program_options.hpp>\n", "only launchers/")
        self.refused("base/a.h", "", "no #pragma once")
        self.refused("utilities/a.cpp", "", "no folder of the layout")
        self.refused("base/a.cpp", '#include "../base/b.h"\n', "include from the root")
        self.refused("base/a.cpp", '#include "credence/core/b.h"\n', "no folder of the layout")


if __name__ == "__main__":
    unittest.main()
