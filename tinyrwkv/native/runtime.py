"""What the kernels need from outside, and LLVM code for it where a system does not have it.

On Linux and macOS every process has a C library. On Windows there are many, and none need be in the
process, so that objects for it bring these functions.
"""

from __future__ import annotations

from .processor import LINUX, MACOS, WINDOWS
from .targets import FIRMWARE

_EVERYWHERE = ("memset", "memcpy", "sched_yield")

NEEDED = {
    LINUX: _EVERYWHERE,
    MACOS: (*_EVERYWHERE, "bzero", "__bzero"),  # what LLVM calls there to write zeros
    WINDOWS: _EVERYWHERE,
    FIRMWARE: ("memset", "memcpy"),  # its one core waits for nobody
}
"""What objects for each system may need that the kernels do not define."""

# In a function of its name, LLVM does not make a call of memset or memcpy from the loop.
_ON_WINDOWS = """
define ptr @memset(ptr %to, i32 %value, i64 %count) "no-builtins" {
before:
  %byte = trunc i32 %value to i8
  %none = icmp eq i64 %count, 0
  br i1 %none, label %after, label %body
body:
  %i = phi i64 [0, %before], [%next, %body]
  %at = getelementptr i8, ptr %to, i64 %i
  store i8 %byte, ptr %at
  %next = add nuw i64 %i, 1
  %done = icmp eq i64 %next, %count
  br i1 %done, label %after, label %body
after:
  ret ptr %to
}

define ptr @memcpy(ptr noalias %to, ptr noalias %from, i64 %count) "no-builtins" {
before:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %after, label %body
body:
  %i = phi i64 [0, %before], [%next, %body]
  %source = getelementptr i8, ptr %from, i64 %i
  %target = getelementptr i8, ptr %to, i64 %i
  %byte = load i8, ptr %source
  store i8 %byte, ptr %target
  %next = add nuw i64 %i, 1
  %done = icmp eq i64 %next, %count
  br i1 %done, label %after, label %body
after:
  ret ptr %to
}

define i32 @sched_yield() {
  %result = call i32 @SwitchToThread()
  ret i32 %result
}

declare dllimport i32 @SwitchToThread()
"""

SYSTEM_CODE = {LINUX: "", MACOS: "", WINDOWS: _ON_WINDOWS, FIRMWARE: ""}
"""LLVM code that is linked with the kernels."""
