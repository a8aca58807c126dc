import type { MemberName } from "../support/members.js";

/** Tensors of each type, F32 and BF16 aside, and bytes of all tensors; the text model with unused K/V. */
export interface Expected {
  readonly types?: string;
  readonly bytes: number;
}

/**
 * What llama-quantize of llama.cpp v0.5.0 makes of the published members, with an importance matrix where
 * the name says so. The bytes were checked against real files.
 */
export const EXPECTED: Readonly<Record<string, Readonly<Partial<Record<MemberName, Expected>>>>> = {
  BF16: {
    E2B: { bytes: 9_295_485_068 },
    E4B: { bytes: 15_037_270_184 },
    "12B": { bytes: 23_816_241_344 },
    "26B-A4B": { bytes: 50_489_312_376 },
    "31B": { bytes: 61_397_354_736 },
  },
  Q8_0: {
    E2B: { types: "Q8_0 317", bytes: 4_951_677_068 },
    E4B: { types: "Q8_0 380", bytes: 8_015_415_464 },
    "12B": { types: "Q8_0 329", bytes: 12_653_822_144 },
    "26B-A4B": { types: "Q8_0 266", bytes: 26_844_036_216 },
    "31B": { types: "Q8_0 411", bytes: 32_619_841_776 },
  },
  Q6_K: {
    E2B: { types: "Q6_K 317", bytes: 3_829_526_668 },
    E4B: { types: "Q6_K 380", bytes: 6_201_436_328 },
    "12B": { types: "Q6_K 329", bytes: 9_770_197_184 },
    "26B-A4B": { types: "Q6_K 206, Q8_0 60", bytes: 22_622_576_248 },
    "31B": { types: "Q6_K 411", bytes: 25_185_650_928 },
  },
  Q5_K_M: {
    E2B: { types: "Q5_K 281, Q6_K 36", bytes: 3_614_468_236 },
    E4B: { types: "Q5_K 336, Q6_K 44", bytes: 5_747_087_528 },
    "12B": { types: "Q5_K 284, Q6_K 45", bytes: 8_531_443_904 },
    "26B-A4B": { types: "Q5_1 32, Q5_K 192, Q6_K 14, Q8_0 28", bytes: 19_117_067_384 },
    "31B": { types: "Q5_K 355, Q6_K 56", bytes: 21_829_736_688 },
  },
  Q4_K_M: {
    E2B: { types: "Q4_K 281, Q6_K 36", bytes: 3_412_060_300 },
    E4B: { types: "Q4_K 336, Q6_K 44", bytes: 5_319_465_128 },
    "12B": { types: "Q4_K 284, Q6_K 45", bytes: 7_365_558_464 },
    "26B-A4B": { types: "Q4_K 192, Q5_0 32, Q6_K 14, Q8_0 28", bytes: 16_780_192_888 },
    "31B": { types: "Q4_K 355, Q6_K 56", bytes: 18_671_229_168 },
  },
  Q4_K_S: {
    E2B: { types: "Q4_K 307, Q5_K 8, Q6_K 2", bytes: 3_349_256_332 },
    E4B: { types: "Q4_K 369, Q5_K 9, Q6_K 2", bytes: 5_187_143_848 },
    "12B": { types: "Q4_K 318, Q5_K 10, Q6_K 1", bytes: 7_008_223_424 },
    "26B-A4B": { types: "Q4_K 201, Q5_0 54, Q5_1 6, Q5_K 4, Q6_K 1", bytes: 15_449_002_104 },
    "31B": { types: "Q4_K 399, Q5_K 11, Q6_K 1", bytes: 17_747_331_312 },
  },
  Q4_0: {
    E2B: { types: "Q4_0 315, Q6_K 2", bytes: 3_344_341_132 },
    E4B: { types: "Q4_0 378, Q6_K 2", bytes: 5_170_104_488 },
    "12B": { types: "Q4_0 328, Q6_K 1", bytes: 6_960_054_464 },
    "26B-A4B": { types: "Q4_0 265, Q6_K 1", bytes: 14_423_538_808 },
    "31B": { types: "Q4_0 410, Q6_K 1", bytes: 17_635_166_448 },
  },
  "Q4_0 imat": {
    E2B: { bytes: 3_346_700_428 },
    E4B: { bytes: 5_178_296_488 },
    "12B": { bytes: 6_982_172_864 },
    "26B-A4B": { bytes: 14_472_233_080 },
    "31B": { bytes: 17_685_743_856 },
  },
  "IQ4_NL imat": {
    E2B: { types: "IQ4_NL 280, Q5_K 35, Q6_K 2", bytes: 3_346_405_516 },
    E4B: { types: "IQ4_NL 336, Q5_K 42, Q6_K 2", bytes: 5_178_132_648 },
    "12B": { types: "IQ4_NL 328, Q6_K 1", bytes: 6_960_054_464 },
    "26B-A4B": { types: "IQ4_NL 265, Q6_K 1", bytes: 14_423_538_808 },
    "31B": { types: "IQ4_NL 410, Q6_K 1", bytes: 17_635_166_448 },
  },
  "IQ4_XS imat": {
    E2B: { types: "IQ4_XS 280, Q5_K 35, Q6_K 2", bytes: 3_288_111_244 },
    E4B: { types: "IQ4_XS 336, Q5_K 42, Q6_K 2", bytes: 5_055_129_768 },
    "12B": { types: "IQ4_XS 328, Q6_K 1", bytes: 6_619_431_104 },
    "26B-A4B": { types: "IQ4_NL 60, IQ4_XS 205, Q6_K 1", bytes: 13_901_902_968 },
    "31B": { types: "IQ4_XS 410, Q6_K 1", bytes: 16_719_956_208 },
  },
  Q3_K_M: {
    E2B: { types: "Q3_K 210, Q4_K 101, Q5_K 4, Q6_K 2", bytes: 3_185_531_020 },
    E4B: { types: "Q3_K 252, Q4_K 122, Q5_K 4, Q6_K 2", bytes: 4_834_570_408 },
    "12B": { types: "Q3_K 192, Q4_K 131, Q5_K 5, Q6_K 1", bytes: 6_071_263_424 },
    "26B-A4B": { types: "Q3_K 150, Q4_K 53, Q5_0 58, Q5_1 2, Q5_K 2, Q6_K 1", bytes: 13_270_910_584 },
    "31B": { types: "Q3_K 240, Q4_K 165, Q5_K 5, Q6_K 1", bytes: 15_271_274_736 },
  },
  Q2_K: {
    E2B: { types: "Q2_K 210, Q3_K 70, Q4_K 35, Q6_K 2", bytes: 2_973_268_108 },
    E4B: { types: "Q2_K 252, Q3_K 84, Q4_K 42, Q6_K 2", bytes: 4_385_495_208 },
    "12B": { types: "Q2_K 192, Q3_K 136, Q6_K 1", bytes: 4_814_323_904 },
    "26B-A4B": { types: "Q2_K 150, Q3_K 55, Q4_0 60, Q6_K 1", bytes: 10_566_914_168 },
    "31B": { types: "Q2_K 240, Q3_K 170, Q6_K 1", bytes: 11_900_479_728 },
  },
  Q2_K_S: {
    "12B": { types: "Q2_K 322, Q4_K 6, Q6_K 1", bytes: 4_488_323_264 },
    "26B-A4B": { types: "Q2_K 205, Q4_0 54, Q5_0 6, Q6_K 1", bytes: 10_608_658_552 },
    "31B": { types: "Q2_K 403, Q4_K 7, Q6_K 1", bytes: 10_960_754_928 },
  },
  IQ2_M: {
    E2B: { bytes: 2_545_711_244 },
    E4B: { bytes: 3_795_796_136 },
    "12B": { types: "IQ2_S 234, IQ3_S 94, Q5_K 1", bytes: 4_355_981_504 },
    "26B-A4B": { types: "IQ2_S 150, IQ3_S 30, IQ4_NL 60, Q4_K 25, Q5_K 1", bytes: 10_361_892_472 },
    "31B": { types: "IQ2_S 293, IQ3_S 117, Q5_K 1", bytes: 10_901_231_856 },
  },
  IQ2_XS: {
    E2B: { bytes: 2_470_312_076 },
    E4B: { bytes: 3_635_478_696 },
    "12B": { types: "IQ2_XS 282, Q2_K 46, Q5_K 1", bytes: 3_872_018_624 },
    "26B-A4B": { types: "IQ2_XS 180, IQ4_NL 57, Q4_0 3, Q4_K 25, Q5_K 1", bytes: 9_800_607_352 },
    "31B": { types: "IQ2_XS 353, Q2_K 57, Q5_K 1", bytes: 9_514_524_912 },
  },
  IQ2_XXS: {
    E2B: { bytes: 2_413_197_452 },
    E4B: { bytes: 3_516_571_816 },
    "12B": { types: "IQ2_XXS 282, Q2_K 46, Q5_K 1", bytes: 3_552_284_864 },
    "26B-A4B": { types: "IQ2_XXS 180, IQ4_NL 57, Q4_0 3, Q4_K 25, Q5_K 1", bytes: 9_283_477_112 },
    "31B": { types: "IQ2_XXS 353, Q2_K 57, Q5_K 1", bytes: 8_659_009_776 },
  },
  TQ2_0: {
    E2B: { types: "Q6_K 2, TQ2_0 315", bytes: 2_770_940_044 },
    E4B: { bytes: 3_951_257_768 },
    "12B": { bytes: 3_638_976_704 },
    "26B-A4B": { types: "Q4_0 60, Q6_K 1, TQ2_0 205", bytes: 9_337_589_368 },
    "31B": { bytes: 8_711_866_608 },
  },
  TQ1_0: {
    E2B: { bytes: 2_682_724_492 },
    E4B: { bytes: 3_763_742_888 },
    "12B": { bytes: 3_128_041_664 },
    "26B-A4B": { bytes: 8_555_135_608 },
    "31B": { bytes: 7_339_051_248 },
  },
  Q2_0: {
    E2B: { types: "Q2_0 315, Q6_K 2", bytes: 2_815_047_820 },
    E4B: { bytes: 4_045_015_208 },
    "12B": { bytes: 3_894_444_224 },
    "26B-A4B": { types: "Q2_0 265, Q6_K 1", bytes: 7_537_574_008 },
    "31B": { bytes: 9_398_274_288 },
  },
  Q1_0: {
    E2B: { bytes: 2_550_401_164 },
    E4B: { bytes: 3_482_470_568 },
    "12B": { bytes: 2_361_639_104 },
    "31B": { bytes: 5_279_828_208 },
  },
  MXFP4_MOE: {
    "26B-A4B": { types: "MXFP4 60, Q8_0 206", bytes: 14_711_356_536 },
  },
};
