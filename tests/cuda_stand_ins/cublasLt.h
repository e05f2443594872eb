// What PyTorch's headers name of it, for toolkits that come without its headers.
#pragma once

using cublasLtHandle_t = struct cublasLtContext*;
