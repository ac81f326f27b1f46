// Every floating-point formula of the kernels, written once over a "lane" type: one float (plain C++ or a CUDA thread)
// or a SIMD vector of them. Only correctly rounded operations appear (add, subtract, multiply, fma, divide, square
// root, conversion of integers), each one explicit, so every lane type gives the same bits.
//
// No include guard: included once for each lane type, inside a namespace of its own, after defining CREDENCE_LANE (the
// function specifiers) and including <cstdint> and "credence/kernels/plan.h". A lane type L has the types F, U (32-bit
// words) and M (mask), the operators + - * on F and + - & ^ on U, and the static functions used below.

/// Elementary functions in float, a few ulp each. Polynomials are minimax fits (Remez exchange) with float
/// coefficients.
template <class L>
struct FloatMath : L {
  using F = typename L::F;
  using U = typename L::U;

  template <class... Rest>
  static CREDENCE_LANE F polynomial(F x, float first, Rest... rest) {
    if constexpr (sizeof...(rest) == 0) {
      return L::set(first);
    } else {
      return L::fma(polynomial(x, rest...), x, L::set(first));
    }
  }

  /// Natural logarithm of a positive normal number. Relative error of the polynomial 2^-27.5.
  static CREDENCE_LANE F log(F x) {
    // x = 2^e * (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); log(1 + f) = f + f^2 P(f).
    const U shifted = L::bits(x) - L::set_bits(0x3f3504f3u);
    const F e = L::to_float(L::template shift_right_signed<23>(shifted));
    const F f = L::from_bits((shifted & L::set_bits(0x007fffffu)) + L::set_bits(0x3f3504f3u)) - L::set(1.0f);
    const F p = polynomial(f, -0.499999881f, 0.333333254f, -0.250015825f, 0.200019747f, -0.166090831f, 0.141818225f,
                           -0.132429853f, 0.129044458f, -0.0762179866f);
    const F low = L::fma(e, L::set(1.42860677e-6f), (f * f) * p);
    return L::fma(e, L::set(0.693145752f), f + low);
  }

  /// exp(x) for x <= 0; arguments below -87 count as -87, so the result is never zero or denormal.
  static CREDENCE_LANE F exp_nonpositive(F x) {
    x = L::select(L::less(x, L::set(-87.0f)), L::set(-87.0f), x);
    const F magic = L::set(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the rounded integer
    const F sum = L::fma(x, L::set(1.44269502f), magic);
    const F k = sum - magic;
    const F r = L::fma(k, L::set(-1.42860677e-6f), L::fma(k, L::set(-0.693145752f), x));
    const F p = polynomial(r, 0.49999994f, 0.166665196f, 0.0416684002f, 0.00836885069f, 0.00138143194f);
    const F y = L::fma(p, r * r, r) + L::set(1.0f);
    return L::from_bits(L::bits(y) + L::template shift_left<23>(L::bits(sum)));
  }

  /// log(1 + t) for t in [0, 1]. Relative error of the polynomial 2^-27.5.
  static CREDENCE_LANE F log1p_unit(F t) {
    const F p = polynomial(t, -0.499999315f, 0.333304644f, -0.24958019f, 0.196921021f, -0.153448805f, 0.106611267f,
                           -0.0574571751f, 0.020086173f, -0.00329044065f);
    return L::fma(t * t, p, t);
  }

  /// The raw scale of a positive normal scale: log(exp(s) - 1). Below 1 as log(s) + s / 2 and the even rest, whose
  /// Taylor series leaves 1e-7; above it as s + log(1 - exp(-s)).
  static CREDENCE_LANE F inverse_softplus(F s) {
    const auto small = L::less(s, L::set(1.0f));
    const F rest = polynomial(s * s, 0.0416666679f, -0.000347222231f, 5.51146382e-6f, -1.03339554e-7f);
    const F addend = L::select(small, s * L::fma(s, rest, L::set(0.5f)), s);
    return log(L::select(small, s, L::set(1.0f) - exp_nonpositive(L::zero() - s))) + addend;
  }

  /// sin and cos of the angle 2 pi w / 2^32.
  static CREDENCE_LANE void sincos_turn(U w, F& sine, F& cosine) {
    // Nearest quarter turn and the rest, y in [-1/2, 1/2) quarter turns: exact up to the conversion to float.
    const U quadrant = L::template shift_right<30>(w + L::set_bits(0x20000000u));
    const F y = L::to_float(L::template shift_left<2>(w)) * L::set(2.3283064365386963e-10f);
    const F z = y * y;
    const F low = L::fma(z, polynomial(z, -0.645963609f, 0.0796814114f, -0.00460483413f), L::set(-4.37113883e-8f));
    const F s = L::fma(y, L::set(1.57079637f), y * low);
    const F c = L::fma(z, polynomial(z, -1.23370051f, 0.253669232f, -0.0208601654f, 0.000903766544f), L::set(1.0f));
    const auto odd = L::nonzero(quadrant & L::set_bits(1u));
    const U sine_sign = L::template shift_left<30>(quadrant & L::set_bits(2u));
    const U cosine_sign = L::template shift_left<30>((quadrant + L::set_bits(1u)) & L::set_bits(2u));
    sine = L::from_bits(L::bits(L::select(odd, c, s)) ^ sine_sign);
    cosine = L::from_bits(L::bits(L::select(odd, s, c)) ^ cosine_sign);
  }

  /// Box-Muller: two words to two independent standard normal numbers, their signs flipped by `sign` (0 or 2^31).
  static CREDENCE_LANE void box_muller(U radius_word, U angle_word, U sign, F& first, F& second) {
    const F u = L::fma(L::to_float(L::template shift_right<1>(radius_word)), L::set(4.656612873077393e-10f),
                       L::set(2.3283064365386963e-10f));  // in [2^-32, 1]
    const F radius = L::sqrt(L::set(-2.0f) * log(u));
    F sine, cosine;
    sincos_turn(angle_word, sine, cosine);
    first = L::from_bits(L::bits(radius * cosine) ^ sign);
    second = L::from_bits(L::bits(radius * sine) ^ sign);
  }
};

/// What the kernels compute for each element, over elementary functions `Math` in float or double.
template <class Math, class T>
struct Formulas {
  using F = typename Math::F;

  struct Scale {
    F value;      // softplus(raw)
    F slope;      // its derivative, sigmoid(raw)
    F log_slope;  // slope / value, the derivative of log(value): at most 1 however small the value
  };

  static CREDENCE_LANE F positive_part(F x) { return Math::select(Math::less(x, Math::zero()), Math::zero(), x); }

  static CREDENCE_LANE F scale(F raw) {
    return positive_part(raw) + Math::log1p_unit(Math::exp_nonpositive(Math::zero() - Math::abs(raw)));
  }

  static CREDENCE_LANE Scale scale_and_slopes(F raw) {
    const F t = Math::exp_nonpositive(Math::zero() - Math::abs(raw));
    const F one = Math::set(T(1));
    const F value = positive_part(raw) + Math::log1p_unit(t);
    const F numerator = Math::select(Math::less(raw, Math::zero()), t, one);  // slope = numerator / (1 + t)
    const F reciprocal = Math::div(one, (one + t) * value);                   // one division for both slopes
    return {value, numerator * (value * reciprocal), numerator * reciprocal};
  }

  static CREDENCE_LANE F draw(F mean, F raw, F eps) { return Math::fma(scale(raw), eps, mean); }

  /// d objective / d mean of a gradient sum.
  static CREDENCE_LANE F mean_gradient(const StepConstants<T>& step, const SegmentConstants<T>& segment, F mean,
                                       F gradient) {
    return Math::fma(Math::set(segment.prior_curvature), mean - Math::set(segment.prior_mean),
                     gradient * Math::set(step.gradient_multiplier));
  }

  /// d objective / d raw scale of a sum of eps * gradient.
  static CREDENCE_LANE F raw_gradient(const StepConstants<T>& step, const SegmentConstants<T>& segment, Scale scale,
                                      F scaled_gradient) {
    const F likelihood_and_prior = Math::fma(Math::set(segment.prior_curvature), scale.value,
                                             scaled_gradient * Math::set(step.gradient_multiplier));
    return Math::fma(Math::set(-step.entropy_weight), scale.log_slope, likelihood_and_prior * scale.slope);
  }

  /// Terms of the sums over a segment; with a scale or raw gradient of zero those of a point estimate.
  static CREDENCE_LANE F squared_deviation(const SegmentConstants<T>& segment, F mean, F scale) {
    const F deviation = mean - Math::set(segment.prior_mean);
    return Math::fma(deviation, deviation, scale * scale);
  }
  static CREDENCE_LANE F squared_gradient(F mean_gradient, F raw_gradient) {
    return Math::fma(mean_gradient, mean_gradient, raw_gradient * raw_gradient);
  }

  /// PyTorch's fused Adam without weight decay: moments by linear interpolation, debiased step.
  static CREDENCE_LANE void adam(const StepConstants<T>& step, T step_size, F gradient, F& value, F& first, F& second) {
    first = Math::fma(Math::set(step.first_rate), gradient - first, first);
    second = Math::fma(Math::set(step.beta2), second, (gradient * Math::set(step.second_rate)) * gradient);
    const F denominator = Math::fma(Math::sqrt(second), Math::set(step.inverse_root_bias2), Math::set(step.epsilon));
    value = Math::fma(Math::set(-step_size), Math::div(first, denominator), value);
  }

  /// What IVON keeps of a weight; `hessian` is that of the mean NLL per example.
  struct IvonState {
    F mean, raw, momentum, hessian;
  };

  /// Hessian and weight decay together: a Gaussian's entropy weight over its variance.
  static CREDENCE_LANE F precision(const SegmentConstants<T>& segment, F hessian) {
    const F least = Math::set(segment.least_precision);
    const F sum = hessian + Math::set(segment.prior_curvature);
    return Math::select(Math::less(sum, least), least, sum);
  }

  /// IVON's momentum and mean at a given precision, the step clipped to [-radius, radius].
  static CREDENCE_LANE void ivon_mean(const StepConstants<T>& step, const SegmentConstants<T>& segment, F precision,
                                      F gradient, F& mean, F& momentum) {
    momentum =
        Math::fma(Math::set(step.first_rate), gradient * Math::set(step.gradient_multiplier) - momentum, momentum);
    const F prior = Math::set(segment.prior_curvature) * (mean - Math::set(segment.prior_mean));
    const F radius = Math::set(step.clip_radius), least = Math::set(-step.clip_radius);
    F direction = Math::div(Math::fma(momentum, Math::set(step.inverse_bias1), prior), precision);
    direction = Math::select(Math::less(radius, direction), radius, direction);
    direction = Math::select(Math::less(direction, least), least, direction);
    mean = Math::fma(Math::set(-(step.mean_step * segment.mean_rate)), direction, mean);
  }
  /// A point estimate keeps the Hessian of the start.
  static CREDENCE_LANE void ivon_point(const StepConstants<T>& step, const SegmentConstants<T>& segment, F gradient,
                                       F& mean, F& momentum) {
    ivon_mean(step, segment, precision(segment, Math::set(step.hess_init)), gradient, mean, momentum);
  }

  /// IVON (Shen et al. 2024, algorithm 1). The estimate of the Hessian is dL/dscale over scale; with the term of second
  /// order hessian + weight decay stays positive whatever the estimate is.
  static CREDENCE_LANE void ivon(const StepConstants<T>& step, const SegmentConstants<T>& segment, F scale, F gradient,
                                 F scaled_gradient, IvonState& state) {
    const F estimate = Math::div(scaled_gradient * Math::set(step.gradient_multiplier), scale);
    const F change = (estimate - state.hessian) * Math::set(step.second_rate);
    const F relative = Math::div(change, precision(segment, state.hessian));
    state.hessian = Math::fma(change, Math::fma(Math::set(T(0.5)), relative, Math::set(T(1))), state.hessian);
    const F updated = precision(segment, state.hessian);
    ivon_mean(step, segment, updated, gradient, state.mean, state.momentum);
    state.raw = Math::inverse_softplus(Math::sqrt(Math::div(Math::set(step.entropy_weight), updated)));
  }

  /// You et al. 2017: momentum of steps, not of gradients; `step_size` holds the trust ratio.
  static CREDENCE_LANE void lars(const StepConstants<T>& step, T step_size, F gradient, F& value, F& momentum) {
    momentum = Math::fma(Math::set(step.momentum), momentum, Math::set(step_size) * gradient);
    value = value - momentum;
  }

  /// PyTorch's SGD with momentum, no dampening.
  static CREDENCE_LANE void sgd(const StepConstants<T>& step, T step_size, F gradient, F& value, F& momentum) {
    momentum = Math::fma(Math::set(step.momentum), momentum, gradient);
    value = Math::fma(Math::set(-step_size), momentum, value);
  }
};
