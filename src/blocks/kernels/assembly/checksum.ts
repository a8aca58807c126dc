// A checksum of bytes that lie in the cache, fast enough to cost nothing beside reading and writing them.
//
// Sixteen pairs of running sums, one for each of the sixteen 32-bit words of 64 bytes: `sum` adds up words and
// `sums` adds up `sum`, so that the place of a word counts too (Fletcher's idea). A word that changed changes the
// result, whatever it was; for anything else the odds are those of 32 bits. It guards against torn and lost
// writes and failing disks, not against somebody who wants to deceive.

/** Spreads every bit over all others, and loses none: the last step of MurmurHash3. */
// @ts-ignore: decorator
@inline function spread(bits: u32): u32 {
  bits = (bits ^ (bits >>> 16)) * 0x85ebca6b;
  bits = (bits ^ (bits >>> 13)) * 0xc2b2ae35;
  return bits ^ (bits >>> 16);
}

/** Takes four sums into the result, one after the other. */
function fold(result: u32, sums: v128): u32 {
  result = spread((result ^ i32x4.extract_lane(sums, 0)) + 0x9e3779b9);
  result = spread((result ^ i32x4.extract_lane(sums, 1)) + 0x9e3779b9);
  result = spread((result ^ i32x4.extract_lane(sums, 2)) + 0x9e3779b9);
  return spread((result ^ i32x4.extract_lane(sums, 3)) + 0x9e3779b9);
}

/** The first `count` of 16 bytes, with zeros in place of the rest; none where it is not positive. */
// @ts-ignore: decorator
@inline function first(at: usize, count: i32): v128 {
  const kept = i8x16.lt_s(
    i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    i8x16.splat(<i8>min(max(count, 0), 16)),
  );
  return v128.and(v128.load(at), kept);
}

/** Checksum of `length` bytes. Reads up to 63 bytes past the end. */
export function checksum(at: usize, length: i32): u32 {
  let sum0 = i32x4.splat(0);
  let sum1 = sum0;
  let sum2 = sum0;
  let sum3 = sum0;
  let sums0 = sum0;
  let sums1 = sum0;
  let sums2 = sum0;
  let sums3 = sum0;
  const end = at + <usize>(length & ~63);
  for (; at < end; at += 64) {
    sum0 = i32x4.add(sum0, v128.load(at));
    sum1 = i32x4.add(sum1, v128.load(at, 16));
    sum2 = i32x4.add(sum2, v128.load(at, 32));
    sum3 = i32x4.add(sum3, v128.load(at, 48));
    sums0 = i32x4.add(sums0, sum0);
    sums1 = i32x4.add(sums1, sum1);
    sums2 = i32x4.add(sums2, sum2);
    sums3 = i32x4.add(sums3, sum3);
  }
  const left = length & 63;
  if (left > 0) {
    sum0 = i32x4.add(sum0, first(at, left));
    sum1 = i32x4.add(sum1, first(at + 16, left - 16));
    sum2 = i32x4.add(sum2, first(at + 32, left - 32));
    sum3 = i32x4.add(sum3, first(at + 48, left - 48));
    sums0 = i32x4.add(sums0, sum0);
    sums1 = i32x4.add(sums1, sum1);
    sums2 = i32x4.add(sums2, sum2);
    sums3 = i32x4.add(sums3, sum3);
  }
  // The length tells zeros at the end from the filling.
  let result = spread(<u32>length);
  result = fold(fold(result, sum0), sums0);
  result = fold(fold(result, sum1), sums1);
  result = fold(fold(result, sum2), sums2);
  return fold(fold(result, sum3), sums3);
}
