#pragma once

#include <dlfcn.h>

#include <string>

namespace syncbn {

/// A library of this build that the program opens where it is there, so that one program serves machines with and
/// without what it needs. It stays open until the process ends, because threads and exit handlers live in it.
struct Module {
  void* handle = nullptr;
  std::string problem;  ///< why there is none

  /// The function of this name, as its declaration says it is.
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(::dlsym(handle, name));
  }
};

struct ModuleOptions {
  std::string file;                     ///< beside libsyncbn
  const char* variable;                 ///< of the environment, names another file
  const char* version;                  ///< function in it that returns its version
  std::string article, name;            ///< in messages: "the ", "CUDA backend"
  std::string if_missing, if_unusable;  ///< what to do: the end of a message, or empty
};
/// Whatever stands in its way is the module's problem, never thrown.
Module open_module(const ModuleOptions& options);

}  // namespace syncbn
