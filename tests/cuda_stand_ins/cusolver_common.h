// What PyTorch's headers name of it, for toolkits that come without its headers.
#pragma once

enum cusolverStatus_t { CUSOLVER_STATUS_SUCCESS = 0 };
