# Installs the library from BUILD_DIR into a fresh prefix, builds EXAMPLE_DIR against it with
# find_package(betatron), and runs the program.
set(work "${BUILD_DIR}/cpp_example")
file(REMOVE_RECURSE "${work}")
foreach(step IN ITEMS
    "--install|${BUILD_DIR}|--component|development|--prefix|${work}/prefix"
    "-S|${EXAMPLE_DIR}|-B|${work}/build|-G|${GENERATOR}|-DCMAKE_CXX_COMPILER=${CXX}|-DCMAKE_BUILD_TYPE=Release|-DCMAKE_PREFIX_PATH=${work}/prefix"
    "--build|${work}/build")
  string(REPLACE "|" ";" arguments "${step}")
  execute_process(COMMAND "${CMAKE_COMMAND}" ${arguments} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
execute_process(COMMAND "${work}/build/fodo" COMMAND_ERROR_IS_FATAL ANY)
