package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
)

const (
	finalizer = "example.com/address"
	// addresses is the ConfigMap with a line for each MyApp.
	addresses = "myapp-addresses"
)

type reconciler struct {
	client.Client
	scheme    *runtime.Scheme
	namespace string
}

// setUp watches MyApps and what belongs to them: whoever changes the Deployment or the Service causes a reconciliation.
func setUp(manager ctrl.Manager, namespace string) error {
	for _, add := range []func(string, healthz.Checker) error{manager.AddHealthzCheck, manager.AddReadyzCheck} {
		if err := add("ping", healthz.Ping); err != nil {
			return err
		}
	}
	r := &reconciler{Client: manager.GetClient(), scheme: manager.GetScheme(), namespace: namespace}
	return ctrl.NewControllerManagedBy(manager).
		For(&MyApp{}).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.Service{}).
		Complete(r)
}

// Reconcile makes the cluster be as one MyApp says. It may be called at any time and any number of times.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	app := &MyApp{}
	if err := r.Get(ctx, request.NamespacedName, app); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if app.DeletionTimestamp != nil {
		return ctrl.Result{}, r.forget(ctx, app)
	}
	// Before the line is written, so that there is no line without a finalizer.
	if controllerutil.AddFinalizer(app, finalizer) {
		if err := r.Update(ctx, app); err != nil {
			return ctrl.Result{}, fmt.Errorf("adding the finalizer: %w", err)
		}
	}
	deployment, err := r.deployment(ctx, app)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := r.service(ctx, app); err != nil {
		return ctrl.Result{}, err
	}
	address := fmt.Sprintf("%s.%s.svc:80", app.Name, app.Namespace)
	if err := r.record(ctx, app, address); err != nil {
		return ctrl.Result{}, err
	}
	before := app.Status
	app.Status = MyAppStatus{Ready: deployment.Status.ReadyReplicas, Address: address}
	if app.Status == before {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.Status().Update(ctx, app)
}

func (r *reconciler) deployment(ctx context.Context, app *MyApp) (*appsv1.Deployment, error) {
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: app.Name, Namespace: app.Namespace}}
	labels := map[string]string{"example.com/myapp": app.Name}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, deployment, func() error {
		deployment.Spec.Replicas = &app.Spec.Replicas
		if deployment.Spec.Selector == nil { // it can't be changed
			deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		}
		deployment.Spec.Template.Labels = labels
		containers := &deployment.Spec.Template.Spec.Containers
		if len(*containers) != 1 {
			*containers = make([]corev1.Container, 1)
		}
		c := &(*containers)[0] // what the API server filled in by default stays
		c.Name, c.Image = "app", app.Spec.Image
		c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: app.Spec.Port, Protocol: corev1.ProtocolTCP}}
		if c.ReadinessProbe == nil {
			c.ReadinessProbe = &corev1.Probe{}
		}
		c.ReadinessProbe.ProbeHandler = corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("http")}}
		c.ReadinessProbe.PeriodSeconds = 2
		return controllerutil.SetControllerReference(app, deployment, r.scheme)
	})
	if err != nil {
		return nil, fmt.Errorf("making the Deployment: %w", err)
	}
	return deployment, nil
}

func (r *reconciler) service(ctx context.Context, app *MyApp) error {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app.Name, Namespace: app.Namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, service, func() error {
		service.Spec.Selector = map[string]string{"example.com/myapp": app.Name}
		service.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}}
		return controllerutil.SetControllerReference(app, service, r.scheme)
	})
	if err != nil {
		return fmt.Errorf("making the Service: %w", err)
	}
	return nil
}

// record writes the MyApp's line.
func (r *reconciler) record(ctx context.Context, app *MyApp, address string) error {
	list := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: addresses, Namespace: r.namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, list, func() error {
		if list.Data == nil {
			list.Data = map[string]string{}
		}
		list.Data[app.Namespace+"."+app.Name] = address
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing the address to %s: %w", addresses, err)
	}
	return nil
}

// forget takes the line out, then lets the MyApp go. Its Deployment and Service go by themselves: they are owned.
func (r *reconciler) forget(ctx context.Context, app *MyApp) error {
	if !controllerutil.ContainsFinalizer(app, finalizer) {
		return nil
	}
	list := &corev1.ConfigMap{}
	err := r.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: addresses}, list)
	if err == nil {
		delete(list.Data, app.Namespace+"."+app.Name)
		err = r.Update(ctx, list)
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("taking the address out of %s: %w", addresses, err)
	}
	controllerutil.RemoveFinalizer(app, finalizer)
	return client.IgnoreNotFound(r.Update(ctx, app))
}
