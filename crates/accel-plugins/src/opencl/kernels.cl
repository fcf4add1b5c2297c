// The kernels of plugin `opencl`, compiled once when the plugin is opened. Work items beyond the end of an array do
// nothing, so that a size need not be a multiple of a group's.

kernel void copy_int(global const int *from, global int *to, ulong count) {
  const ulong at = get_global_id(0);
  if (at < count) to[at] = from[at];
}

kernel void add(global const float *a, global const float *b, global float *sum, ulong count) {
  const ulong at = get_global_id(0);
  if (at < count) sum[at] = a[at] + b[at];
}

kernel void add_multiply(global const float *a, global const float *b, global float *sum, global float *product,
                         ulong count) {
  const ulong at = get_global_id(0);
  if (at < count) {
    sum[at] = a[at] + b[at];
    product[at] = a[at] * b[at];
  }
}

// C = alpha A B + beta C. A group of 16 by 16 work items makes a tile of 64 by 64 elements of C, 4 by 4 each, from
// tiles of A and B that it keeps in local memory, 16 deep.
#define TILE 64
#define DEPTH 16
#define EACH 4
#define SIDE (TILE / EACH)

kernel void sgemm(ulong m, ulong n, ulong k, float alpha, global const float *a, ulong lda, global const float *b,
                  ulong ldb, float beta, global float *c) {
  local float a_tile[DEPTH][TILE];
  local float b_tile[DEPTH][TILE];
  const int column = get_local_id(0);
  const int row = get_local_id(1);
  const ulong first_column = (ulong)get_group_id(0) * TILE;
  const ulong first_row = (ulong)get_group_id(1) * TILE;
  const int item = row * SIDE + column;
  float sums[EACH][EACH];
  for (int i = 0; i < EACH; i++)
    for (int j = 0; j < EACH; j++) sums[i][j] = 0.0f;

  for (ulong depth = 0; depth < k; depth += DEPTH) {
    for (int part = item; part < TILE * DEPTH; part += SIDE * SIDE) {
      const ulong of_a = first_row + part / DEPTH, at_a = depth + part % DEPTH;
      a_tile[part % DEPTH][part / DEPTH] = of_a < m && at_a < k ? a[of_a * lda + at_a] : 0.0f;
      const ulong of_b = depth + part / TILE, at_b = first_column + part % TILE;
      b_tile[part / TILE][part % TILE] = of_b < k && at_b < n ? b[of_b * ldb + at_b] : 0.0f;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = 0; step < DEPTH; step++) {
      float of_b[EACH];
      for (int j = 0; j < EACH; j++) of_b[j] = b_tile[step][column + j * SIDE];
      for (int i = 0; i < EACH; i++) {
        const float of_a = a_tile[step][row + i * SIDE];
        for (int j = 0; j < EACH; j++) sums[i][j] += of_a * of_b[j];
      }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  for (int i = 0; i < EACH; i++) {
    const ulong at_row = first_row + row + i * SIDE;
    for (int j = 0; j < EACH; j++) {
      const ulong at_column = first_column + column + j * SIDE;
      if (at_row < m && at_column < n) {
        const ulong at = at_row * n + at_column;
        // What C held is not looked at when it does not count.
        c[at] = beta == 0.0f ? alpha * sums[i][j] : alpha * sums[i][j] + beta * c[at];
      }
    }
  }
}

// Resizes by a triangle filter, which is as wide as what a pixel of the result covers, so that nothing is skipped when a
// picture gets smaller: what Pillow calls bilinear.
kernel void resize(global const uchar *from, uint width, uint height, global uchar *to, uint to_width, uint to_height,
                   uint channels) {
  const ulong at = get_global_id(0);
  if (at >= (ulong)to_width * to_height) return;
  const float scale_x = (float)width / to_width, scale_y = (float)height / to_height;
  const float reach_x = fmax(scale_x, 1.0f), reach_y = fmax(scale_y, 1.0f);
  const float centre_x = (at % to_width + 0.5f) * scale_x, centre_y = (at / to_width + 0.5f) * scale_y;
  const uint left = (uint)fmax(centre_x - reach_x, 0.0f), top = (uint)fmax(centre_y - reach_y, 0.0f);
  const uint right = min((uint)(centre_x + reach_x) + 1, width), bottom = min((uint)(centre_y + reach_y) + 1, height);
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  float total = 0.0f;
  for (uint y = top; y < bottom; y++) {
    const float weight_y = fmax(1.0f - fabs(y + 0.5f - centre_y) / reach_y, 0.0f);
    for (uint x = left; x < right; x++) {
      const float weight = weight_y * fmax(1.0f - fabs(x + 0.5f - centre_x) / reach_x, 0.0f);
      const ulong pixel = ((ulong)y * width + x) * channels;
      for (uint channel = 0; channel < channels; channel++) sums[channel] += weight * from[pixel + channel];
      total += weight;
    }
  }
  for (uint channel = 0; channel < channels; channel++)
    to[at * channels + channel] = convert_uchar_sat_rte(sums[channel] / total);
}
