package verify

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// cluster is what examples/kubernetes/ makes, by name.
type cluster struct {
	deployments  map[string]*appsv1.Deployment
	statefulSets map[string]*appsv1.StatefulSet
	services     map[string]*corev1.Service
	configMaps   map[string]*corev1.ConfigMap
}

// build does what `kubectl apply --kustomize` does, but for the sending.
func build(t *testing.T) *cluster {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
		Run(filesys.MakeFsOnDisk(), filepath.Join(root, "examples/kubernetes"))
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		make(map[string]*appsv1.Deployment), make(map[string]*appsv1.StatefulSet),
		make(map[string]*corev1.Service), make(map[string]*corev1.ConfigMap),
	}
	for _, object := range made.Resources() {
		text, err := object.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		name := object.GetName()
		switch kind := object.GetApiVersion() + " " + object.GetKind(); kind {
		case "apps/v1 Deployment":
			c.deployments[name] = decoded[appsv1.Deployment](t, text)
		case "apps/v1 StatefulSet":
			c.statefulSets[name] = decoded[appsv1.StatefulSet](t, text)
		case "v1 Service":
			c.services[name] = decoded[corev1.Service](t, text)
		case "v1 ConfigMap":
			c.configMaps[name] = decoded[corev1.ConfigMap](t, text)
		default:
			t.Errorf("%s is a %s, which this test does not know", name, kind)
		}
	}
	return c
}

func decoded[T any](tb testing.TB, text []byte) *T {
	tb.Helper()
	v := new(T)
	decode(tb, text, v)
	return v
}

func TestKubernetesApplication(t *testing.T) {
	c := build(t)
	chat := c.deployments["chat"]
	pod := chat.Spec.Template.Spec
	container := pod.Containers[0]
	expectSelected(t, chat.Spec.Selector.MatchLabels, chat.Spec.Template.Labels)
	expectMounts(t, c, pod, "/etc/drain/drain.sh", "/etc/drain/tls")

	env := make(map[string]string)
	for _, v := range container.Env {
		env[v.Name] = v.Value
	}
	seconds := make(map[string]int64)
	for _, name := range []string{"TIMEOUT", "EVICT_PERIOD"} {
		n, err := strconv.ParseInt(env[name], 10, 64)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		seconds[name] = n
	}
	if grace := *pod.TerminationGracePeriodSeconds; seconds["EVICT_PERIOD"] >= seconds["TIMEOUT"] || seconds["TIMEOUT"] >= grace {
		t.Errorf("tunnels end in %v seconds, and the pod has %d", seconds, grace)
	}
	if command := container.Lifecycle.PreStop.Exec.Command; !strings.Contains(command[2], "/etc/drain/drain.sh") {
		t.Errorf("preStop runs %q", command)
	}

	// Each Caddy is asked, by the name that its headless service gives it.
	caddy := c.statefulSets["caddy"]
	var want []string
	for i := range int(*caddy.Spec.Replicas) {
		want = append(want, "https://caddy-"+strconv.Itoa(i)+"."+caddy.Spec.ServiceName+":2021")
	}
	if got := strings.Fields(env["ADMIN"]); !slices.Equal(got, want) {
		t.Errorf("ADMIN has %q, want %q", got, want)
	}
	service := c.services[find(t, "examples/kubernetes/Caddyfile", `dynamic a (\S+) 9000`)]
	if service == nil || service.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Fatal("Caddy does not find the pods by a headless service")
	}
	expectSelected(t, service.Spec.Selector, chat.Spec.Template.Labels)
}

func TestKubernetesCaddy(t *testing.T) {
	c := build(t)
	caddy := c.statefulSets["caddy"]
	pod := caddy.Spec.Template.Spec
	expectSelected(t, caddy.Spec.Selector.MatchLabels, caddy.Spec.Template.Labels)
	expectMounts(t, c, pod, "/etc/caddy/Caddyfile", "/etc/caddy/site", "/etc/caddy/admin", "/data")
	for name, service := range c.services {
		if name == caddy.Spec.ServiceName || name == "caddy-public" {
			expectSelected(t, service.Spec.Selector, caddy.Spec.Template.Labels)
		}
	}
	need := stopTimes(t, "examples/kubernetes/Caddyfile")
	need += time.Duration(pod.Containers[0].Lifecycle.PreStop.Sleep.Seconds) * time.Second
	if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace <= need {
		t.Errorf("the pod has %v to end, and needs %v", grace, need)
	}
}

func expectSelected(t *testing.T, selector, labels map[string]string) {
	t.Helper()
	if len(selector) == 0 {
		t.Error("nothing is selected")
	}
	for name, value := range selector {
		if labels[name] != value {
			t.Errorf("%v does not select %v", selector, labels)
		}
	}
}

// expectMounts checks what a pod's first container has mounted, and that it is
// there.
func expectMounts(t *testing.T, c *cluster, pod corev1.PodSpec, paths ...string) {
	t.Helper()
	var got []string
	for _, mount := range pod.Containers[0].VolumeMounts {
		got = append(got, mount.MountPath)
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if i < 0 {
			t.Errorf("there is no volume %s", mount.Name)
			continue
		}
		if source := pod.Volumes[i].ConfigMap; source != nil {
			m := c.configMaps[source.Name] // whose name kustomize has made
			if m == nil || m.Data[mount.SubPath] == "" {
				t.Errorf("there is no %s in %s", mount.SubPath, source.Name)
			}
		}
	}
	if !slices.Equal(got, paths) {
		t.Errorf("mounted is %q, want %q", got, paths)
	}
}
