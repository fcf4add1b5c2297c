// SPDX-License-Identifier: Apache-2.0
// What is in a picture. Results are strings, cut to their room.
#pragma once

#include "vaccel/session.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// `out_text` gets the best class, such as "29.761% wall clock".
int vaccel_image_classification(struct vaccel_session *sess, const void *img, unsigned char *out_text,
				unsigned char *out_imgname, size_t len_img, size_t len_out_text,
				size_t len_out_imgname);
int vaccel_image_detection(struct vaccel_session *sess, const void *img, unsigned char *out_imgname, size_t len_img,
			   size_t len_out_imgname);
int vaccel_image_segmentation(struct vaccel_session *sess, const void *img, unsigned char *out_imgname,
			      size_t len_img, size_t len_out_imgname);
int vaccel_image_pose(struct vaccel_session *sess, const void *img, unsigned char *out_imgname, size_t len_img,
		      size_t len_out_imgname);
int vaccel_image_depth(struct vaccel_session *sess, const void *img, unsigned char *out_imgname, size_t len_img,
		       size_t len_out_imgname);

#ifdef __cplusplus
}
#endif
