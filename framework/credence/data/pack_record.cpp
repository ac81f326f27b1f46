#include "credence/data/pack_record.h"

#include <algorithm>

#include "credence/data/jpeg.h"

namespace credence {

PackedImage RecordPacker::pack(std::int64_t record) {
  const StoredImage image = store_.read(record, stored_);
  const int channels = store_.channels();
  const ImageSize size = reader_.open(image, channels);
  const bool keep = settings_.kind == PackSettings::Kind::keep;
  ImageSize output = size;
  if (keep) {  // decoded only to see that it can be, at an eighth of its size
    output = {(size.height + 7) / 8, (size.width + 7) / 8};
  } else if (settings_.short_side > 0 && std::min(size.height, size.width) > settings_.short_side) {
    output = with_short_side(size, settings_.short_side);
  }
  pixels_.resize(static_cast<std::size_t>(output.height * output.width * channels));
  reader_.read(whole_view(size, output), pixels_.data());
  if (keep) return {image.encoding, size, image.bytes};
  if (settings_.kind == PackSettings::Kind::raw) return {Encoding::raw, output, pixels_};
  encoded_ =
      encode_jpeg({pixels_.data(), output.height, output.width, channels, output.width * channels}, settings_.quality);
  return {Encoding::jpeg, output, encoded_};
}

}  // namespace credence
