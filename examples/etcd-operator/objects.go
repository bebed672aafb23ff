package main

import (
	"context"
	"fmt"
	"strings"

	etcdserverpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

const (
	label      = "example.com/etcdcluster"
	clientPort = 2379
	peerPort   = 2380
)

// peerURL is where the other members find a member: a name below the headless Service.
func peerURL(cluster *EtcdCluster, member string) string {
	return fmt.Sprintf("http://%s.%s-members.%s.svc:%d", member, cluster.Name, cluster.Namespace, peerPort)
}

// services are two: one that gives members names before they are ready, and one for clients.
func (r *reconciler) services(ctx context.Context, cluster *EtcdCluster) error {
	for _, name := range []string{cluster.Name, cluster.Name + "-members"} {
		members := name != cluster.Name
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: cluster.Namespace}}
		_, err := controllerutil.CreateOrUpdate(ctx, r.Client, service, func() error {
			service.Spec.Selector = map[string]string{label: cluster.Name}
			service.Spec.PublishNotReadyAddresses = members
			if members {
				service.Spec.ClusterIP = corev1.ClusterIPNone
			}
			service.Spec.Ports = []corev1.ServicePort{{Name: "client", Port: clientPort, TargetPort: intstr.FromInt32(clientPort), Protocol: corev1.ProtocolTCP}}
			return controllerutil.SetControllerReference(cluster, service, r.scheme)
		})
		if err != nil {
			return fmt.Errorf("making the Service %s: %w", name, err)
		}
	}
	return nil
}

// pods answers those of the cluster by name.
func (r *reconciler) pods(ctx context.Context, cluster *EtcdCluster) (map[string]*corev1.Pod, error) {
	list := &corev1.PodList{}
	if err := r.reader.List(ctx, list, client.InNamespace(cluster.Namespace), client.MatchingLabels{label: cluster.Name}); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	pods := map[string]*corev1.Pod{}
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], cluster) {
			pods[list.Items[i].Name] = &list.Items[i]
		}
	}
	return pods, nil
}

// createMember makes the pod of a member that joins the others; without others it is the first.
func (r *reconciler) createMember(ctx context.Context, cluster *EtcdCluster, name string, others []*etcdserverpb.Member) error {
	state, peers := "new", []string{name + "=" + peerURL(cluster, name)}
	for _, other := range others {
		state = "existing"
		peers = append(peers, other.Name+"="+other.PeerURLs[0])
	}
	pod := memberPod(cluster, name)
	pod.Spec.Containers[0].Command = []string{
		"etcd", "--name=" + name, "--data-dir=/data/etcd",
		fmt.Sprintf("--listen-client-urls=http://0.0.0.0:%d", clientPort),
		fmt.Sprintf("--listen-peer-urls=http://0.0.0.0:%d", peerPort),
		"--advertise-client-urls=" + strings.Replace(peerURL(cluster, name), fmt.Sprint(peerPort), fmt.Sprint(clientPort), 1),
		"--initial-advertise-peer-urls=" + peerURL(cluster, name),
		"--initial-cluster=" + strings.Join(peers, ","),
		"--initial-cluster-state=" + state,
		"--initial-cluster-token=" + string(cluster.UID),
	}
	if err := controllerutil.SetControllerReference(cluster, pod, r.scheme); err != nil {
		return err
	}
	if err := r.Create(ctx, pod); err != nil {
		return fmt.Errorf("making the pod of %s: %w", name, err)
	}
	return nil
}

func memberPod(cluster *EtcdCluster, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: cluster.Namespace, Labels: map[string]string{label: cluster.Name}},
		Spec: corev1.PodSpec{
			Hostname:      name,
			Subdomain:     cluster.Name + "-members",
			RestartPolicy: corev1.RestartPolicyNever, // a member that ended is replaced
			Containers: []corev1.Container{{
				Name:  "etcd",
				Image: cluster.Spec.Image,
				Ports: []corev1.ContainerPort{{Name: "client", ContainerPort: clientPort}, {Name: "peer", ContainerPort: peerPort}},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/health", Port: intstr.FromString("client")}},
					PeriodSeconds: 2, TimeoutSeconds: 5,
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			// One member a node where there are enough nodes.
			Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
					Weight: 100,
					PodAffinityTerm: corev1.PodAffinityTerm{
						LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{label: cluster.Name}},
						TopologyKey:   corev1.LabelHostname,
					},
				}},
			}},
		},
	}
}
