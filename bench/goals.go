package main

import (
	"fmt"
	"strconv"
	"strings"
)

// goal bounds our median of one row: by a multiple of a peer's median, or by
// the limit itself where no peer is named.
type goal struct {
	peer  string
	limit float64
	below bool // the limit itself is too much
}

// goals holds what the module is built to reach, by the names of rows that a
// run without flags has. With other numbers of tunnels there are others.
var goals = map[string][]goal{
	"memory per further idle tunnel, 3,000 to 9,000, plain": {{peer: haproxyName, limit: 0.5}},
	"memory per idle tunnel at 3,000, TLS":                  {{peer: haproxyName, limit: 0.8}},
	"memory per idle tunnel at 3,000 after 150 s, TLS":      {{peer: haproxyName, limit: 0.65}},
	"descriptors per idle tunnel, plain":                    {{limit: 2}},
	"descriptors per idle tunnel, TLS":                      {{limit: 2}},
	"goroutines per idle tunnel, plain":                     {{limit: 0}},
	"goroutines per idle tunnel, TLS":                       {{limit: 0}},
	"CPU of 9,000 idle tunnels, plain":                      {{limit: 0.03}},

	"memory per idle tunnel at 3,000 after 64 KiB messages, TLS": {{peer: haproxyName, limit: 1}},

	"CPU per echo of 64 B, plain": {{peer: stockName, limit: 0.85}, {peer: haproxyName, limit: 0.95}},
	"CPU per echo of 64 B, TLS":   {{peer: stockName, limit: 1.05}, {peer: haproxyName, limit: 1.05}},

	"CPU per connect, echo, close, plain": {
		{peer: stockName, limit: 0.7}, {peer: haproxyName, limit: 2}, {peer: bareCaddyName, limit: 1.1},
	},
	"allocated per connect, echo, close, plain":    {{limit: 22}},
	"allocations per connect, echo, close, plain":  {{limit: 200}},
	"system calls per connect, echo, close, plain": {{limit: 50}},
	"CPU per connect, echo, close, TLS":            {{peer: bareCaddyName, limit: 1.08}},

	"CPU per GiB to upstream, 4 KiB frames, plain":  {{peer: stockName, limit: 1.05}},
	"CPU per GiB to client, 4 KiB frames, plain":    {{peer: stockName, limit: 1.05}},
	"CPU per GiB to upstream, 64 KiB frames, plain": {{peer: stockName, limit: 0.6}, {peer: haproxyName, limit: 0.5}},
	"CPU per GiB to client, 64 KiB frames, plain":   {{peer: stockName, limit: 0.6}, {peer: haproxyName, limit: 0.5}},
	"CPU per GiB to upstream, 1 MiB frames, plain":  {{peer: stockName, limit: 0.6}},
	"CPU per GiB to client, 1 MiB frames, plain":    {{peer: stockName, limit: 0.6}},
	"CPU per GiB to upstream, 64 KiB frames, TLS":   {{peer: stockName, limit: 0.85}, {peer: haproxyName, limit: 0.82}},
	"CPU per GiB to client, 64 KiB frames, TLS":     {{peer: stockName, limit: 0.95}, {peer: haproxyName, limit: 0.82}},

	"CPU per GiB to upstream, 64 KiB frames, header in a record of its own, TLS": shapeGoals,
	"CPU per GiB to upstream, 64 KiB frames, 1 KiB records, TLS":                 shapeGoals,
	"CPU per GiB to upstream, 64 B frames, 16 KiB records, TLS":                  shapeGoals,

	"memory per idle tunnel at 1,000, HTTP/2, 100 a connection": {{peer: stockName, limit: 0.4}},
	"memory per idle tunnel at 1,000, HTTP/2, 1 a connection":   {{peer: stockName, limit: 0.58}},
	"memory per idle tunnel at 1,000, HTTP/3, 100 a connection": {{peer: stockName, limit: 0.2}},
	"memory per idle tunnel at 1,000, HTTP/3, 1 a connection":   {{peer: stockName, limit: 0.7}},

	"CPU per echo of 64 B, HTTP/2, 100 a connection": {{peer: stockName, limit: 0.85}},
	"CPU per echo of 64 B, HTTP/2, 1 a connection":   {{peer: stockName, limit: 0.85}},
	"CPU per echo of 64 B, HTTP/3, 100 a connection": {{peer: stockName, limit: 0.85}},
	"CPU per echo of 64 B, HTTP/3, 1 a connection":   {{peer: stockName, limit: 0.85}},

	"CPU per GiB to upstream, 64 KiB frames, HTTP/2, 100 a connection": {{peer: stockName, limit: 0.9}},
	"CPU per GiB to client, 64 KiB frames, HTTP/2, 100 a connection":   {{peer: stockName, limit: 0.9}},
	"CPU per GiB to upstream, 64 KiB frames, HTTP/3, 100 a connection": {{peer: stockName, limit: 0.9}},
	"CPU per GiB to client, 64 KiB frames, HTTP/3, 100 a connection":   {{peer: stockName, limit: 0.9}},

	"storm of 9,000, 1 proxy: until the last has a tunnel":   stormGoals,
	"storm of 9,000, 1 proxy: failed handshakes":             {{limit: 0}},
	"storm of 9,000, 2 proxies: until the last has a tunnel": stormGoals,
	"storm of 9,000, 2 proxies: failed handshakes":           {{limit: 0}},

	"p99 echo latency at 1,000 msg/s, plain": {{peer: haproxyName, limit: 1.05}},
	"p99 echo latency at 1,000 msg/s, TLS":   {{peer: haproxyName, limit: 1.05}},
}

// shapeGoals is what records of all shapes may cost.
var shapeGoals = []goal{{peer: stockName, limit: 0.85}, {peer: haproxyName, limit: 0.82}}

// stormGoals is how long a storm may take: a part of what the upstreams need, and less
// than with limits as the manuals of others have them.
var stormGoals = []goal{
	{limit: 1.3},
	{peer: nginxName, limit: 1, below: true},
	{peer: haproxyName, limit: 1, below: true},
}

// slowGoals is what a tunnel may take up whose peer reads slowly.
func slowGoals(list []measurement) map[string][]goal {
	all := make(map[string][]goal)
	for _, m := range list {
		all[m.rows[0].name] = []goal{{peer: stockName, limit: 1.2}}
	}
	return all
}

// verdict is what became of a goal.
type verdict string

const (
	met     verdict = "met"
	missed  verdict = "**missed**"
	unknown verdict = "not measured"
)

// judge compares our values with those the goal is about, as the table shows them.
func (g goal) judge(values map[string][]float64) verdict {
	text := formatMedian(values[ourName])
	if g.peer != "" {
		text = ratioOf(values[ourName], values[g.peer])
	}
	got, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return unknown // it shows none
	}
	if got < g.limit || got == g.limit && !g.below {
		return met
	}
	return missed
}

func (g goal) String() string {
	sign := "≤"
	if g.below {
		sign = "<"
	}
	if g.peer == "" {
		return fmt.Sprintf("%s %g", sign, g.limit)
	}
	return fmt.Sprintf("%s %g × %s", sign, g.limit, g.peer)
}

// formatGoals tells a row's goals and what became of each.
func formatGoals(list []goal, values map[string][]float64) string {
	if len(list) == 0 {
		return "–"
	}
	texts := make([]string, len(list))
	for i, g := range list {
		texts[i] = fmt.Sprintf("%v: %s", g, g.judge(values))
	}
	return strings.Join(texts, ", ")
}

// summary counts the goals of the measured rows by what became of them.
func summary(all map[string][]goal, r results) string {
	count := make(map[verdict]int)
	for name, values := range r {
		for _, g := range all[name] {
			count[g.judge(values)]++
		}
	}
	return fmt.Sprintf("%d met, %d missed, %d not measured", count[met], count[missed], count[unknown])
}
