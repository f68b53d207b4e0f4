#pragma once

// The C interface between the program and libsyncbn_nccl.so. Both come from one build: the version is compared before
// any other function is called. All functions throw Error.

#include "comm/devices/exchange_device.hpp"

extern "C" {

/// Version of the program that this library belongs to.
const char* syncbn_nccl_version();
/// Makes the id of an exchange: one rank makes it, all ranks connect with it. It holds bytes, not text.
void syncbn_nccl_make_id(std::string* id);
/// Connects the `ranks` ranks with this id; collective over them. Operations go to the stream (a cudaStream_t) of this
/// device. The caller deletes the result. Throws Error when the others have not come within the time-out.
syncbn::DevicePeers* syncbn_nccl_connect(const std::string& id, int rank, int ranks, int device, void* stream,
                                         double timeout_s);
}
