package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// publish writes text to w and, if a file is named, appends it there.
func publish(text string, w io.Writer, file string) error {
	if _, err := io.WriteString(w, text); err != nil || file == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // as the file
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // meant to be read by all
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text+"\n")
	return errors.Join(err, f.Close())
}

// report returns the table and what belongs to it.
func (r *runner) report() string {
	var rows []row
	for _, m := range r.measurements {
		rows = append(rows, m.rows...)
	}
	var names []string
	floors := []string{ourName}
	for _, p := range r.peers {
		if p.floor {
			floors = append(floors, p.name)
		} else {
			names = append(names, p.name)
		}
	}
	text := table(rows, names, r.results, r.goals()) + "\n"
	if measured := r.results.of(floors[1:]); len(measured) > 0 {
		some := slices.DeleteFunc(slices.Clone(rows), func(l row) bool { return !measured[l.name] })
		text += "Floors, which are no proxies, but what a proxy cannot do without:\n\n" +
			unmarked.Replace(table(some, floors, r.results, nil)) + "\n"
	}
	if r.spread {
		text += "From the least to the most of the repetitions:\n\n" +
			spreads(rows, append(names, floors[1:]...), r.results) + "\n"
	}
	return text + r.footer()
}

// unmarked takes the marks away from ratios to what nobody competes with.
var unmarked = strings.NewReplacer(" **lost**", "", " lost?", "")

// goals returns what the results are judged by: nothing if they can't be.
func (r *runner) goals() map[string][]goal {
	switch {
	case r.quick || r.self || r.growth != nil || r.beside != nil || r.fleet > 0:
		return nil
	case r.slow > 0:
		return slowGoals(r.measurements)
	default:
		return goals
	}
}

// footer tells what was measured, with which load, and where.
func (r *runner) footer() string {
	var b strings.Builder
	if r.storm > 0 {
		b.WriteString(r.repeated() + "\n" + r.stormFooter())
		return r.finish(&b)
	}
	fmt.Fprintf(&b, "%s\nMemory is read %v after the last message, if not stated otherwise.", r.repeated(), r.scale.settle)
	if r.growth == nil {
		fmt.Fprintf(&b, " Connects: %d. Bulk: %d MiB over %d tunnels.\n",
			r.scale.connects, r.scale.bulkBytes>>20, r.scale.bulkTunnels)
		fmt.Fprintf(&b, "Less is better; ratio is %s to the peer on its left.", ourName)
	}
	b.WriteString("\n")
	return r.finish(&b)
}

// finish appends what is below every table.
func (r *runner) finish(b *strings.Builder) string {
	if r.self {
		fmt.Fprintf(b, "The column %s is a second reverse_proxy: its ratios are noise.\n", ourName)
	}
	if r.goals() != nil {
		fmt.Fprintf(b, "Goals: %s.\n", summary(r.goals(), r.results))
	}
	b.WriteString("\n")
	for _, note := range r.notes {
		fmt.Fprintf(b, "- %s\n", note)
	}
	for _, p := range r.peers {
		if p.versionArgs != nil {
			fmt.Fprintf(b, "- %s: %s%s\n", p.name, p.version(), r.sourceVersion(p))
		}
	}
	if len(r.missing) > 0 {
		fmt.Fprintf(b, "- not installed: %s\n", strings.Join(r.missing, ", "))
	}
	b.WriteString(r.circumstances())
	return b.String()
}

// repeated tells how often, and so how much a difference says.
func (r *runner) repeated() string {
	var latency string
	if most := r.mostRepetitions(); most > r.runs {
		latency = fmt.Sprintf(" (p99: medians of %d)", most)
	}
	if r.runs > 1 {
		return fmt.Sprintf("Medians of %d runs%s; \"lost?\" where the runs of both overlap.", r.runs, latency)
	}
	return "A single run" + latency + ": take differences of less than a fifth for noise."
}

// circumstances tells where and when.
func (r *runner) circumstances() string {
	return fmt.Sprintf("- %s, %s %s, %d processors, %s, took %v\n", runtime.Version(), runtime.GOOS, kernel(),
		runtime.NumCPU(), r.began.UTC().Format(time.DateOnly), time.Since(r.began).Round(time.Second))
}

// sourceVersion names the commit that our module was built from, if it was.
func (r *runner) sourceVersion(p peer) string {
	if p.name != ourName || r.self {
		return ""
	}
	//nolint:gosec,noctx // the folder is the user's choice; ends at once
	out, err := exec.Command("git", "-C", r.root, "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return ", module at " + strings.TrimSpace(string(out))
}

func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return strings.TrimSpace(string(release))
}
