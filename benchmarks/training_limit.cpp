// The limit of benchmarks/training_loader.py: decode the same JPEGs and resize the same crops on all cores, no Python between.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <csetjmp>
#include <cstdio>
#include <atomic>
#include <thread>
#include <vector>
#include <jpeglib.h>

struct Failing {
    jpeg_error_mgr base;
    jmp_buf back;
};

static void fail(j_common_ptr info) { longjmp(reinterpret_cast<Failing*>(info->err)->back, 1); }

static bool decode(const uint8_t* data, int64_t size, uint8_t* out, int height, int width) {
    jpeg_decompress_struct info;
    Failing failing;
    info.err = jpeg_std_error(&failing.base);
    failing.base.error_exit = fail;
    if (setjmp(failing.back)) {
        jpeg_destroy_decompress(&info);
        return false;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, const_cast<uint8_t*>(data), size);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    bool fits = int(info.output_height) == height && int(info.output_width) == width;
    while (fits && info.output_scanline < info.output_height) {
        JSAMPROW rows[4];
        for (int row = 0; row < 4; row++) rows[row] = out + (info.output_scanline + row) * int64_t(width) * 3;
        jpeg_read_scanlines(&info, rows, info.output_height - info.output_scanline < 4 ? info.output_height - info.output_scanline : 4);
    }
    if (fits) jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return fits;
}

// clips: (N, 7) height, width, top, left, region's height and width, first picture. pictures: (M, 2) first byte and size.
// out: (batch, T, S, S, 3), used again and again. Returns the clips that failed.
extern "C" int64_t decode_clips(const uint8_t* data, const int64_t* pictures, const int64_t* clips, int64_t num_clips,
                                int64_t T, int64_t S, uint8_t* out, int64_t batch, int64_t num_threads) {
    std::atomic<int64_t> next{0}, failed{0};
    auto work = [&] {
        c10::InferenceMode guard;
        std::vector<uint8_t> scratch;
        for (int64_t clip = next++; clip < num_clips; clip = next++) {
            const int64_t* c = clips + clip * 7;
            int64_t height = c[0], width = c[1];
            scratch.resize(height * width * 3);
            auto whole = at::from_blob(scratch.data(), {1, height, width, 3}, at::kByte);
            auto part = whole.slice(1, c[2], c[2] + c[4]).slice(2, c[3], c[3] + c[5]).permute({0, 3, 1, 2});
            for (int64_t t = 0; t < T; t++) {
                const int64_t* p = pictures + (c[6] + t) * 2;
                if (!decode(data + p[0], p[1], scratch.data(), height, width)) { failed++; break; }
                auto target = at::from_blob(out + ((clip % batch) * T + t) * S * S * 3, {1, S, S, 3}, at::kByte).permute({0, 3, 1, 2});
                at::_upsample_bilinear2d_aa_out(target, part, {S, S}, false);
            }
        }
    };
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < num_threads; i++) threads.emplace_back(work);
    work();
    for (auto& thread : threads) thread.join();
    return failed;
}
