package balance

import (
	"slices"
	"testing"
)

func TestCrowds(t *testing.T) {
	crowds := func(from, to int, members ...int) (all []Crowd) {
		for i, m := range members {
			all = append(all, Crowd{Key: uint64(i), From: from, To: to, Members: m})
		}
		return all
	}
	ten := []Load{at(20), at(0)} // too many at the first
	for name, test := range map[string]struct {
		loads []Load
		all   []Crowd
		n     int
		want  []int
	}{
		"nothing is too much":                   {[]Load{at(10), at(10)}, crowds(0, 1, 1, 2), 5, nil},
		"a step of none":                        {ten, crowds(0, 1, 1, 2), 0, nil},
		"there are none":                        {ten, nil, 5, nil},
		"they would stay":                       {ten, crowds(0, 0, 1, 2), 5, nil},
		"they would come to where too many are": {ten, crowds(1, 0, 1, 2), 5, nil},
		"the largest that fit":                  {ten, crowds(0, 1, 1, 1, 30, 7, 3, 1), 10, []int{7, 3}},
		"what is left is filled with small":     {ten, crowds(0, 1, 4, 4, 4, 1, 1), 10, []int{4, 4, 1, 1}},
		"no more than fit":                      {ten, crowds(0, 1, 4, 4, 4), 10, []int{4, 4}},
		"a step ends with a whole room":         {[]Load{at(200), at(0)}, crowds(0, 1, 4, 4, 4, 4), 5, []int{4, 4}},
		"a room larger than a step":             {[]Load{at(200), at(0)}, crowds(0, 1, 50, 2), 5, []int{50}},
		"all too large, but it gets better":     {ten, crowds(0, 1, 19, 15, 18), 10, []int{15}},
		"all too large, and it gets worse":      {ten, crowds(0, 1, 20, 30), 10, nil},
		"the only one":                          {ten, crowds(0, 1, 20), 10, nil},
		"no more than there is place for":       {[]Load{at(100), at(0, atMost(5)), at(25)}, crowds(0, 1, 3, 3, 2), 60, []int{3, 2}},
		"from two to one":                       {[]Load{at(20), at(20), at(5)}, append(crowds(0, 2, 5), crowds(1, 2, 4, 1)...), 10, []int{5, 4, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []int
			for _, c := range LevelsOf(test.loads).Crowds(test.all, test.n) {
				got = append(got, c.Members)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
