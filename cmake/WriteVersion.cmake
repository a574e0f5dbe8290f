# cmake -DSOURCE=dir -DVERSION=x -DHEADER=file -P: writes LOLA_BUILD_VERSION, only when it changed.
find_program(GIT git)
set(text "${VERSION}")
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --abbrev=12 --exclude=* --dirty=+
                  OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE failed)
  if(NOT failed)
    string(REPLACE "+" " changed" commit "${commit}")
    set(text "${text} (${commit})")
  endif()
endif()
set(line "#define LOLA_BUILD_VERSION \"${text}\"\n")
if(EXISTS ${HEADER})
  file(READ ${HEADER} old)
endif()
if(NOT "${old}" STREQUAL "${line}")
  file(WRITE ${HEADER} "${line}")
endif()
