package main

import (
	"syscall"
	"time"
	"unsafe"
)

// childAttributes makes a child stop when this program dies without being
// able to stop it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

// processCPU returns the CPU time of a process and its ended threads from its
// CPU clock, which counts nanoseconds where /proc/PID/stat has only ticks of
// ten milliseconds.
func processCPU(pid int) (time.Duration, error) {
	const schedClock = 2
	id := ^pid<<3 | schedClock // as clock_getcpuclockid(3) makes it
	var ts syscall.Timespec
	//nolint:gosec // the system call wants the address
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		return 0, errno
	}
	return time.Duration(ts.Nano()), nil
}

// sleepUntil sleeps on the thread itself: the runtime's timers are a
// millisecond too coarse for a load of a thousand messages per second.
func sleepUntil(t time.Time) {
	for {
		left := time.Until(t)
		if left <= 0 {
			return
		}
		ts := syscall.NsecToTimespec(left.Nanoseconds())
		_ = syscall.Nanosleep(&ts, nil) // interrupted: the loop sleeps again
	}
}
