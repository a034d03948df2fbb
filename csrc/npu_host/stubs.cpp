// Functions that torch_npu's libraries are linked with and that nothing here needs: each fails by
// its name. A function that is looked up at run time has no stub: it is as absent as in an older
// CANN.
#include "status.h"

#define STUB(name) \
  extern "C" int name() { return npu_host::Missing(#name); }
// of a function that returns what it has made
#define STUB_OF_POINTER(name) \
  extern "C" void* name() {   \
    npu_host::Missing(#name); \
    return nullptr;           \
  }

STUB(MsprofGetHashId)
STUB(MsprofReportAdditionalInfo)
STUB(MsprofReportApi)
STUB(MsprofReportCompactInfo)
STUB(MsprofSysCycleTime)
STUB_OF_POINTER(aclCreateDataBuffer)
STUB_OF_POINTER(aclCreateTensorDesc)
STUB(aclDestroyDataBuffer)
STUB(aclDestroyTensorDesc)
STUB(aclGetTensorDescDimV2)
STUB(aclGetTensorDescFormat)
STUB(aclGetTensorDescNumDims)
STUB(aclGetTensorDescType)
STUB(aclSetTensorDescName)
STUB(aclSetTensorFormat)
STUB(aclSetTensorPlaceMent)
STUB(aclSetTensorShape)
STUB(aclmdlFinalizeDump)
STUB(aclmdlInitDump)
STUB(aclmdlSetDump)
STUB(aclopCompileAndExecute)
STUB_OF_POINTER(aclopCreateAttr)
STUB(aclopDestroyAttr)
STUB(aclopSetAttrBool)
STUB(aclopSetAttrDataType)
STUB(aclopSetAttrFloat)
STUB(aclopSetAttrInt)
STUB(aclopSetAttrListBool)
STUB(aclopSetAttrListFloat)
STUB(aclopSetAttrListInt)
STUB(aclopSetAttrListListInt)
STUB(aclopSetAttrString)
STUB(aclrtBinaryGetFunction)
STUB(aclrtBinaryLoadFromData)
STUB(aclrtFreePhysical)
STUB(aclrtGetFunctionAddr)
STUB(aclrtMallocPhysical)
STUB(aclrtMapMem)
STUB(aclrtMemExportToShareableHandle)
STUB(aclrtMemImportFromShareableHandle)
STUB(aclrtMemSetPidToShareableHandle)
STUB(aclrtProcessReport)
STUB(aclrtReleaseMemAddress)
STUB(aclrtReserveMemAddress)
STUB(aclrtUnmapMem)
STUB(rtDevBinaryRegister)
STUB(rtFunctionRegister)
STUB(rtGetC2cCtrlAddr)
STUB(rtKernelLaunch)
