package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// results holds the values of every repetition by row and peer.
type results map[string]map[string][]float64

func (r results) add(rowName, peerName string, value float64) {
	if r[rowName] == nil {
		r[rowName] = make(map[string][]float64)
	}
	r[rowName][peerName] = append(r[rowName][peerName], value)
}

// of returns the names of the rows that some of these peers have values of.
func (r results) of(peers []string) map[string]bool {
	rows := make(map[string]bool)
	for name, values := range r {
		for _, p := range peers {
			if len(values[p]) > 0 {
				rows[name] = true
			}
		}
	}
	return rows
}

// table renders the rows that have results as Markdown, with a column for the
// goals if there are any. The first peer is the one that the others are
// compared with.
func table(rows []row, peers []string, r results, goals map[string][]goal) string {
	var b strings.Builder
	b.WriteString("| | unit | " + peers[0] + " |")
	for _, name := range peers[1:] {
		fmt.Fprintf(&b, " %s | ratio |", name)
	}
	rule := "\n|---|---|---:|" + strings.Repeat("---:|---:|", len(peers)-1)
	if goals != nil {
		b.WriteString(" goal |")
		rule += "---|"
	}
	b.WriteString(rule + "\n")
	for _, line := range rows {
		values, ok := r[line.name]
		if !ok {
			continue
		}
		ours := values[peers[0]]
		fmt.Fprintf(&b, "| %s | %s | %s |", line.name, line.unit, formatMedian(ours))
		for _, name := range peers[1:] {
			fmt.Fprintf(&b, " %s | %s |", formatMedian(values[name]), formatRatio(ours, values[name]))
		}
		if goals != nil {
			b.WriteString(" " + formatGoals(goals[line.name], values) + " |")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// spreads renders the least and the most of each peer's values.
func spreads(rows []row, peers []string, r results) string {
	var b strings.Builder
	b.WriteString("| | unit | " + strings.Join(peers, " | ") + " |\n|---|---|" + strings.Repeat("---:|", len(peers)) + "\n")
	for _, line := range rows {
		if r[line.name] == nil {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |", line.name, line.unit)
		for _, name := range peers {
			text := "–"
			if values := known(r[line.name][name]); len(values) > 0 {
				text = formatNumber(slices.Min(values)) + " … " + formatNumber(slices.Max(values))
			}
			b.WriteString(" " + text + " |")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// ratioOf divides our median by theirs, "–" if there is no such number. Nothing at all, or
// less, as of memory that was there before its tunnels were, is nothing to divide by.
func ratioOf(ours, theirs []float64) string {
	ours, theirs = known(ours), known(theirs)
	if len(ours) == 0 || len(theirs) == 0 || median(theirs) <= 0 {
		return "–"
	}
	return strconv.FormatFloat(median(ours)/median(theirs), 'f', 2, 64)
}

// formatRatio marks the ratio of a row that we lose, with a question mark where the
// repetitions of both overlap.
func formatRatio(ours, theirs []float64) string {
	text := ratioOf(ours, theirs)
	ratio, err := strconv.ParseFloat(text, 64)
	ours, theirs = known(ours), known(theirs)
	switch {
	case err != nil || ratio <= 1:
		return text
	case len(ours) > 1 && slices.Min(ours) <= slices.Max(theirs):
		return text + " lost?"
	default:
		return text + " **lost**"
	}
}

func formatMedian(values []float64) string {
	switch {
	case len(values) == 0:
		return "failed"
	case len(known(values)) == 0:
		return "–"
	default:
		return formatNumber(median(known(values)))
	}
}

// known returns values without NaN, which stands for what a peer doesn't have
// or can't do.
func known(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}

// formatNumber keeps three significant digits, but no more than four behind the point,
// or all digits before it.
func formatNumber(v float64) string {
	digits := 2
	if v != 0 {
		digits = max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	}
	return strconv.FormatFloat(v, 'f', min(digits, 4), 64)
}

// median returns the middle of values, which must not be empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
