// Shapes: so many elements side by side in memory that are loaded, computed and stored at once. No include guard: part
// of simd.cpp, once for each instruction set, inside its namespace.

/// One vector, of which only the first `count` elements exist unless kFull; the others read as zero.
template <bool kFull>
struct Single {
  using Lane = FloatLane;
  using F = VF;
  static constexpr std::int64_t kElements = kWidth;

  static HWY_INLINE F load(const float* pointer, std::int64_t count) {
    if constexpr (kFull) {
      return hn::LoadU(Floats(), pointer);
    } else {
      HWY_ALIGN float buffer[kWidth] = {};
      std::memcpy(buffer, pointer, static_cast<std::size_t>(count) * sizeof(float));
      return hn::Load(Floats(), buffer);
    }
  }

  static HWY_INLINE void store(F value, float* pointer, std::int64_t count) {
    if constexpr (kFull) {
      hn::StoreU(value, Floats(), pointer);
    } else {
      HWY_ALIGN float buffer[kWidth];
      hn::Store(value, Floats(), buffer);
      std::memcpy(pointer, buffer, static_cast<std::size_t>(count) * sizeof(float));
    }
  }

  /// Calls add(first element, vector), the missing elements zero.
  template <class Add>
  static HWY_INLINE void for_vectors(F value, std::int64_t count, const Add& add) {
    if constexpr (!kFull) {
      value = hn::IfThenElseZero(hn::FirstN(Floats(), static_cast<std::size_t>(count)), value);
    }
    add(0, value);
  }
};

/// Two of a shape of full vectors, one after the other in memory.
template <class Half>
struct Twice {
  using Lane = PairOf<typename Half::Lane>;
  using F = typename Lane::F;
  static constexpr std::int64_t kElements = 2 * Half::kElements;

  static HWY_INLINE F load(const float* pointer, std::int64_t) {
    return {Half::load(pointer, Half::kElements), Half::load(pointer + Half::kElements, Half::kElements)};
  }
  static HWY_INLINE void store(F value, float* pointer, std::int64_t) {
    Half::store(value.a, pointer, Half::kElements);
    Half::store(value.b, pointer + Half::kElements, Half::kElements);
  }
  template <class Add>
  static HWY_INLINE void for_vectors(F value, std::int64_t, const Add& add) {
    Half::for_vectors(value.a, Half::kElements, add);
    Half::for_vectors(value.b, Half::kElements,
                      [&](std::int64_t first, VF vector) HWY_ATTR { add(Half::kElements + first, vector); });
  }
};
using Double = Twice<Single<true>>;
using Longest = std::conditional_t<kManyRegisters, Twice<Double>, Double>;

template <class Shape>
using FormulaOf = Formulas<FloatMath<typename Shape::Lane>, float>;

/// Elements whose noise is made at once: enough that loops are long, little enough for the first-level cache.
constexpr std::int64_t kStretch = 8 * kNoiseGroup;

/// Cuts elements [begin, end) into the longest shapes, vectors and a rest. Calls visit(shape, first element, elements).
template <class Visit>
HWY_INLINE void for_shapes(std::int64_t begin, std::int64_t end, const Visit& visit) {
  std::int64_t i = begin;
  for (; i + Longest::kElements <= end; i += Longest::kElements) visit(Longest(), i, Longest::kElements);
  for (; i + kWidth <= end; i += kWidth) visit(Single<true>(), i, kWidth);
  if (i < end) visit(Single<false>(), i, end - i);
}
