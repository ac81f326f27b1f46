#pragma once

namespace credence {

/// P(X <= z) of a standard normal number.
double normal_cdf(double z);
/// P(X <= t) of Student's t with `dof` degrees of freedom, by the regularised incomplete beta function (Abramowitz and
/// Stegun 26.7.1).
double student_t_cdf(double t, double dof);
/// P(X <= count) of a Poisson variable, by the regularised incomplete gamma function; 0 below 0. Above a rate of 1e6
/// the cube-root approximation of Wilson and Hilferty 1931 takes its place, which is off by less than 1e-8 there.
double poisson_cdf(double count, double rate);

}  // namespace credence
