# moge_add_ascend_executable(NAME source...): an executable from .asc and .cpp files with device
# code, host code, or both. Also what find_package(moge_emulator) reads.
if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/targets.cmake)
  include(CMakeFindDependencyMacro)
  find_dependency(Threads)
  include(${CMAKE_CURRENT_LIST_DIR}/targets.cmake)
endif()

function(moge_add_ascend_executable name)
  set(translate ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/translate.py)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/${name}_translated)
  set(number 0)
  foreach(source ${ARGN})
    get_filename_component(source ${source} ABSOLUTE)
    get_filename_component(stem ${source} NAME_WE)
    list(APPEND sources ${source})
    list(APPEND translated ${out}/${number}_${stem}.cpp)
    math(EXPR number "${number} + 1")
  endforeach()
  set(depfile)
  if(CMAKE_GENERATOR MATCHES Ninja OR NOT CMAKE_VERSION VERSION_LESS 3.20)
    set(depfile DEPFILE ${out}/depends)  # the headers decide, too, what kind a kernel is of
  endif()
  add_custom_command(OUTPUT ${translated}
    COMMAND ${Python3_EXECUTABLE} ${translate} --out ${out} ${sources}
    DEPENDS ${sources} ${translate} ${depfile} VERBATIM)
  add_executable(${name} ${translated})
  foreach(source ${sources})
    get_filename_component(folder ${source} DIRECTORY)
    target_include_directories(${name} PRIVATE ${out}/include ${folder})
  endforeach()
  target_compile_options(${name} PRIVATE -g)  # reports name the lines of the source
  target_link_libraries(${name} PRIVATE moge::emulator_host)
endfunction()
