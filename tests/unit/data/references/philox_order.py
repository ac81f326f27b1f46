#!/usr/bin/env python3
"""The numbers in sampling_test.cpp: an epoch's order of examples, written anew from the definitions.

Philox4x32-10 (Salmon et al. 2011), key = (seed, purpose << 24 | seed >> 32), counter = (block, epoch, 0, 0), the words
of successive blocks in order; Fisher-Yates from the last element down; integers by Lemire's method.
"""
import itertools

WORD = 1 << 32


def philox(counter, key):
    counter, key = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b // WORD ^ counter[1] ^ key[0], b % WORD, a // WORD ^ counter[3] ^ key[1], a % WORD]
        key = [(key[0] + 0x9E3779B9) % WORD, (key[1] + 0xBB67AE85) % WORD]
    return counter


def words(seed, purpose, stream):
    for block in itertools.count():
        yield from philox([block, stream, 0, 0], [seed % WORD, purpose << 24 | seed // WORD])


def below(bound, source):
    product = next(source) * bound
    while product % WORD < WORD % bound:
        product = next(source) * bound
    return product // WORD


def order(seed, epoch, examples):
    source = words(seed, 2, epoch)  # purpose 2: data_order
    result = list(range(examples))
    for last in range(examples - 1, 0, -1):
        other = below(last + 1, source)
        result[last], result[other] = result[other], result[last]
    return result


if __name__ == "__main__":
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answers
    assert philox([WORD - 1] * 4, [WORD - 1] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    for seed, epoch in ((0, 0), (0, 1), (1, 0), ((1 << 56) - 1, 3)):
        print(seed, epoch, order(seed, epoch, 12))
