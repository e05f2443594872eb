// What PyTorch's headers name of it, for toolkits that come without its headers.
#pragma once

using cusparseHandle_t = struct cusparseContext*;
