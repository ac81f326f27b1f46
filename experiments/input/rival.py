"""torchvision's loader on the same files: images per second of processor time, one process and one thread. usage: rival.py FOLDER"""

import statistics
import sys
import time

import torch
from torchvision import datasets, transforms

torch.set_num_threads(1)
SECONDS, ROUNDS = 1.5, 5
normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
pipelines = {
    "torchvision: RandomResizedCrop, flip, ToTensor, Normalize": transforms.Compose(
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]),
    "torchvision: RandomResizedCrop, flip, PILToTensor": transforms.Compose(
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]),
}
rates = {name: [] for name in pipelines}
for _ in range(ROUNDS):
    for name, pipeline in pipelines.items():
        loader = torch.utils.data.DataLoader(datasets.ImageFolder(sys.argv[1], pipeline), batch_size=50, shuffle=True)
        count, begin = 0, time.process_time()
        for images, _labels in loader:
            count += len(images)
            if time.process_time() - begin > SECONDS:
                break
        rates[name].append(count / (time.process_time() - begin))
for name, values in rates.items():
    print(f"{name:<58} {statistics.median(values):7.0f} images/s")
