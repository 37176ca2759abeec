// field_profile.h: how a field varies along the axis of an element, as a Fourier series over its length.
//
//   g(z) = c_0/2 + sum_{n > 0} (c_n cos(2 pi n u/L) + s_n sin(2 pi n u/L)),     u = z - L/2,  0 <= z <= L
//
// and zero outside. Coefficients of a measured table: betatron.fourier_coefficients. The standard profiles are
// those of ImpactX 26.06.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <vector>

namespace betatron::elements {

namespace profiles {

/// Ez on the axis of a nine-cell TESLA cavity.
inline constexpr double tesla_cavity[] = {
    0.1644024074311037,     -0.1324009958969339,    0.04344306002604722,    0.0856026540949465,
    -0.2433578169042885,    0.5297150596779437,     0.7164884680963959,     -0.00525795224428773,
    -0.05502536914219368,   0.04684567333502893,    -0.02327934633563857,   0.0040800777539657775,
    0.004137832653375217,   -0.0025040533340490805, -0.0040654981400000964, 0.009663059206749829,
    -0.008527589598599021,  -0.05807874700642502,   -0.024044337836660403,  0.010968240064697212,
    -0.0034461179858301418, -0.0008120156486944375, 0.002143899290495938,   -0.0014997753525697276,
    0.00018685171825676386};

/// Bz on the axis of a thin cylindrical coil, diameter over length of the element 1/3.
inline constexpr double thin_shell_solenoid[] = {
    0.350807812299706,      0.323554693720069,      0.260320578919415,      0.182848575294969,
    0.106921016050403,      0.04409581845710694,    -9.416427163897508e-06, -0.02459452716865687,
    -0.03272762575737291,   -0.02936414401076162,   -0.0199578007892689,    -0.009102893342953847,
    -2.456410658713271e-06, 0.005788233017324325,   0.00804040829242069,    0.007480064552867431,
    0.005230254569468851,   0.002447614547094685,   -1.095525090532255e-06, -0.00161458686738717,
    -0.002281365457438345,  -0.002148709081338292,  -0.001522541739363011,  -0.0007185505862719508,
    -6.171194824600157e-07, 0.0004842109305036943,  0.0006874508102002901,  0.0006535550288205728,
    0.000464879581375921,   0.0002216564722797528,  -4.100982995210341e-07, -0.0001499332112463395,
    -0.0002151538438342482, -0.0002044590946652016, -0.0001468242784844341};

/// Gradient with tanh-shaped fringes.
inline constexpr double tanh_quadrupole[] = {
    0.834166514794446,      0.598104328994702,      0.141852844428785,      -0.118211272182381,
    -0.09056149864743113,   0.01803476331179615,    0.04464887700797893,    0.007364410636252136,
    -0.01697541023436736,   -0.00901267951554277,   0.004367667630047725,   0.005444030542119803,
    -5.889959910931886e-05, -0.002409098101409192,  -0.000796271215416559,  0.0007855814707106538,
    0.0006174930463182168,  -0.0001340154094301854, -0.0003167213724698439, -4.925292460592617e-05,
    0.0001221580597451921,  6.331025910961789e-05,  -3.202416719002774e-05, -3.872103053895529e-05,
    8.212882937116278e-07};

}  // namespace profiles

/// g along an element. The series goes on periodically beyond the ends, where stages of methods of order 4 and 6
/// look at it; a field of one stretch of smooth functions keeps their order.
class field_profile {
 public:
  struct values {
    double field;     ///< g(z)
    double integral;  ///< of g up to z, from the middle
  };

  /// `standard` serves if both lists are empty. The lists must outlive the profile.
  field_profile(const std::vector<double>& cosine, const std::vector<double>& sine,
                std::span<const double> standard, double length)
      : cosine_(cosine.empty() && sine.empty() ? standard : std::span<const double>(cosine)),
        sine_(sine),
        length_(length) {}

  values at(double z) const {
    const double u = z - length_ / 2, wave_number = 2 * std::numbers::pi / length_;
    const double c1 = std::cos(wave_number * u), s1 = std::sin(wave_number * u);
    values r{0, 0};
    if (!cosine_.empty()) r = {cosine_[0] / 2, cosine_[0] / 2 * u};
    double c = 1, s = 0;  // of n times the angle
    for (std::size_t n = 1; n < std::max(cosine_.size(), sine_.size()); ++n) {
      const double next = c * c1 - s * s1;
      s = s * c1 + c * s1;
      c = next;
      const double a = n < cosine_.size() ? cosine_[n] : 0, b = n < sine_.size() ? sine_[n] : 0;
      r.field += a * c + b * s;
      r.integral += (a * s - b * c) / (wave_number * static_cast<double>(n));
    }
    return r;
  }

 private:
  std::span<const double> cosine_, sine_;
  double length_;
};

}  // namespace betatron::elements
