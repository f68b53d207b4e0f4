# What `cmake --install` and `cpack` deliver: library, headers, program, CMake package, pkg-config file, configurations, launch
# scripts, completions.
include(CMakePackageConfigHelpers)

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/syncbn)
install(TARGETS syncbn EXPORT syncbn-targets FILE_SET HEADERS)
install(TARGETS syncbn_cli)
foreach(module syncbn_cuda syncbn_nccl)
  if(TARGET ${module})
    install(TARGETS ${module} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  endif()
endforeach()
install(EXPORT syncbn-targets NAMESPACE syncbn:: DESTINATION ${config_dir})
configure_package_config_file(cmake/syncbnConfig.cmake.in ${PROJECT_BINARY_DIR}/syncbnConfig.cmake
  INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/syncbnConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/syncbnConfig.cmake ${PROJECT_BINARY_DIR}/syncbnConfigVersion.cmake
  DESTINATION ${config_dir})

file(RELATIVE_PATH libdir_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/syncbn.pc.in ${PROJECT_BINARY_DIR}/syncbn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/syncbn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES LICENSE CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/syncbn/configs)
install(PROGRAMS launch/local launch/multinode DESTINATION ${CMAKE_INSTALL_DATADIR}/syncbn/launch)
install(FILES launch/lib.sh launch/slurm.sbatch DESTINATION ${CMAKE_INSTALL_DATADIR}/syncbn/launch)
install(FILES launch/completions/syncbn.bash RENAME syncbn
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES launch/completions/syncbn.zsh RENAME _syncbn
  DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES launch/completions/syncbn.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "The syncbn authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_DEPENDS openmpi-bin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
include(CPack)
