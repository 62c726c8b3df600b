// Package cpu reads the CPU time of processes.
package cpu

import (
	"syscall"
	"time"
	"unsafe"
)

// Time returns the user and system time that a process has taken. It reads the clock of clock_getcpuclockid(3), because
// /proc/PID/stat counts in ticks of 10 ms.
func Time(pid int) (time.Duration, error) {
	const perProcess, scheduled = 0, 2
	clock := int32(^pid<<3 | perProcess | scheduled)
	var now syscall.Timespec
	_, _, failed := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&now)), 0)
	if failed != 0 {
		return 0, failed
	}
	return time.Duration(now.Nano()), nil
}
