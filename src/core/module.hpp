#pragma once

#include <dlfcn.h>

#include <string>

namespace syncbn {

/// An optional library of this build that the program loads if it exists, so that one program runs on machines with and
/// without what it needs. It stays open until the process ends, because threads and exit handlers live in it.
struct Module {
  void* handle = nullptr;
  std::string problem;  ///< why it is not available

  /// Returns the function of this name, with the type of its declaration.
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(::dlsym(handle, name));
  }
};

struct ModuleOptions {
  std::string file;                     ///< beside libsyncbn
  const char* variable;                 ///< environment variable that names another file
  const char* version;                  ///< function in it that returns its version
  std::string article, name;            ///< in messages: "the ", "CUDA backend"
  std::string if_missing, if_unusable;  ///< what to do: the end of a message, or empty
};
/// Opens a module. Never throws for what prevents this: it becomes the module's `problem`.
Module open_module(const ModuleOptions& options);

}  // namespace syncbn
