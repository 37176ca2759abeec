# Fails if an object compiled for one instruction set defines a symbol that the linker may share with
# other objects: a weak symbol whose mangled name does not carry the ISA. Such a function, kept from
# the AVX-512 object, would end the program with an illegal instruction on a CPU without it.
execute_process(COMMAND "${NM}" --defined-only --format=posix ${OBJECTS}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" symbols "${symbols}")
string(LENGTH "${ISA}" isa_length)
set(shared "")
foreach(line IN LISTS symbols)
  if(line MATCHES "^[^ ]+ [WVu] " AND NOT line MATCHES "${isa_length}${ISA}")
    string(APPEND shared "  ${line}\n")
  endif()
endforeach()
if(shared)
  message(FATAL_ERROR "weak symbols without '${ISA}' in their name (c++filt reads them); make them "
    "always inline, or give them internal linkage or an ISA template argument:\n${shared}")
endif()
