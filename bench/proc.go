package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// clockTick is the unit of CPU times in /proc: USER_HZ is 100 on every Linux
// architecture Go supports.
const clockTick = 10 * time.Millisecond

// procStat is what this program needs of /proc/PID/stat.
type procStat struct {
	parent int
	// childCPU is user and system time of ended and awaited children.
	childCPU time.Duration
}

// usage is what a process tree holds at one moment.
type usage struct {
	pssKiB int64
	fds    int
}

// parseStat parses the content of /proc/PID/stat. The command name, the
// second field, may contain anything, so fields count from its last bracket.
func parseStat(content []byte) (procStat, error) {
	end := bytes.LastIndexByte(content, ')')
	if end < 0 {
		return procStat{}, errors.New("parsing stat: no command name")
	}
	const first, parent, cutime, cstime = 3, 4, 16, 17 // as numbered in proc(5)
	fields := bytes.Fields(content[end+1:])
	if len(fields) <= cstime-first {
		return procStat{}, fmt.Errorf("parsing stat: only %d fields", len(fields))
	}
	var s procStat
	var err error
	if s.parent, err = strconv.Atoi(string(fields[parent-first])); err != nil {
		return procStat{}, fmt.Errorf("parsing stat: %w", err)
	}
	for _, field := range fields[cutime-first : cstime-first+1] {
		ticks, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("parsing stat: %w", err)
		}
		s.childCPU += time.Duration(ticks) * clockTick
	}
	return s, nil
}

// parsePSS returns the proportional set size in a smaps_rollup file, in KiB.
func parsePSS(content []byte) (int64, error) {
	for line := range bytes.Lines(content) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == "Pss:" {
			return strconv.ParseInt(string(fields[1]), 10, 64)
		}
	}
	return 0, errors.New("parsing smaps_rollup: no Pss line")
}

// readStats reads the stat file of every process on the machine.
func readStats() (map[int]procStat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	stats := make(map[int]procStat, len(files))
	for _, file := range files {
		content, err := os.ReadFile(file) //nolint:gosec // a name in /proc
		if hasEnded(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		if stats[pid], err = parseStat(content); err != nil {
			return nil, err
		}
	}
	return stats, nil
}

// treeOf returns root and all its descendants.
func treeOf(root int, stats map[int]procStat) []int {
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		for pid, s := range stats {
			if s.parent == tree[i] {
				tree = append(tree, pid)
			}
		}
	}
	return tree
}

// cpuOf returns the CPU time the process tree under root has used.
func cpuOf(root int) (time.Duration, error) {
	stats, err := readStats()
	if err != nil {
		return 0, err
	}
	if _, ok := stats[root]; !ok {
		return 0, fmt.Errorf("process %d has ended", root)
	}
	var sum time.Duration
	for _, pid := range treeOf(root, stats) {
		own, err := processCPU(pid)
		if err != nil && !hasEnded(err) {
			return 0, fmt.Errorf("reading CPU time of process %d: %w", pid, err)
		}
		sum += own + stats[pid].childCPU
	}
	return sum, nil
}

// usageOf returns the memory and descriptors the process tree under root holds.
func usageOf(root int) (usage, error) {
	stats, err := readStats()
	if err != nil {
		return usage{}, err
	}
	var sum usage
	for _, pid := range treeOf(root, stats) {
		one, err := usageOfOne(pid)
		if hasEnded(err) && pid != root {
			continue
		}
		if err != nil {
			return usage{}, fmt.Errorf("reading usage of process %d: %w", pid, err)
		}
		sum.pssKiB += one.pssKiB
		sum.fds += one.fds
	}
	return sum, nil
}

func usageOfOne(pid int) (usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	content, err := os.ReadFile(filepath.Join(dir, "smaps_rollup")) //nolint:gosec // a name in /proc
	if err != nil {
		return usage{}, err
	}
	pss, err := parsePSS(content)
	if err != nil {
		return usage{}, err
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	return usage{pssKiB: pss, fds: len(fds)}, err
}

// hasEnded tells whether err says that a process is no longer there.
func hasEnded(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL)
}
